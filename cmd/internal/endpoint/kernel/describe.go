//go:build linux

package kernel

import (
	"fmt"

	"github.com/cilium/ebpf/asm"
)

// identify writes what names a program that runs, at a place in the scratch where a flow or a
// process begins: pid in the initial namespace, when it began, and how often it has run another program.
func (b *builder) identify(at int32) {
	leader := regAt
	b.readField(at+flowPID, regTask, b.types.of("task_struct", "tgid"))
	b.readReg(leader, regTask, b.types.of("task_struct", "group_leader"))
	b.readField(at+flowStart, leader, b.types.of("task_struct", "start_boottime|real_start_time"))
	b.readField(at+flowExec, regTask, b.types.of("task_struct", "self_exec_id"))
}

// users writes uid and login uid.
func (b *builder) users(uid, login int32) {
	b.readReg(asm.R0, regTask, b.types.of("task_struct", "cred"))
	b.readField(uid, asm.R0, b.types.of("cred", "uid.val"))
	b.readField(login, regTask, b.types.of("task_struct", "loginuid.val"))
}

// describe sends what there is to know of the process in regTask that flows do not tell. It
// changes all registers but regScratch.
func (b *builder) describe(maps *maps) {
	const p = scratchProc
	b.zero(p, procExe)
	b.add(asm.StoreImm(regScratch, p+procKind, kindProcess, asm.Word))
	b.identify(p)
	b.readField(p+procComm, regAt, b.types.of("task_struct", "comm")) // of the leader
	b.add(asm.FnKtimeGetBootNs.Call(), asm.StoreMem(regScratch, p+procTime, asm.R0, asm.DWord))
	b.users(p+procUID, p+procLogin)
	b.readReg(asm.R0, regTask, b.types.of("task_struct", "mm"))
	b.add(asm.JEq.Imm(asm.R0, 0, "no memory")) // a thread of the kernel
	b.readReg(regAt, asm.R0, b.types.of("mm_struct", "exe_file"))
	b.readReg(asm.R0, regAt, b.types.of("file", "f_inode"))
	b.add(asm.StoreMem(asm.RFP, stackNext, asm.R0, asm.DWord))
	b.readField(p+procInode, asm.R0, b.types.of("inode", "i_ino"))
	b.add(asm.LoadMem(asm.R0, asm.RFP, stackNext, asm.DWord))
	b.readReg(asm.R0, asm.R0, b.types.of("inode", "i_sb"))
	b.readField(p+procDevice, asm.R0, b.types.of("super_block", "s_dev"))
	b.add(asm.Add.Imm(regAt, b.types.of("file", "f_path").off))
	b.path(p+procExe, p+procExeLen, procExeCut)
	b.args()
	b.mark("no memory")
	b.cgroup()
	b.parent()

	b.add(asm.LoadMem(asm.R3, regScratch, p+procArgsLen, asm.Word),
		asm.JLE.Imm(asm.R3, maxArgs, "fits"), asm.Mov.Imm(asm.R3, 0))
	b.mark("fits")
	b.add(asm.Add.Imm(asm.R3, procLen))
	b.output(maps, p)
}

// args reads the arguments from the memory of the process, which must be the one that runs. Pages
// that are not there stay unread.
func (b *builder) args() {
	const p = scratchProc
	mm := regAt
	b.readReg(mm, regTask, b.types.of("task_struct", "mm"))
	b.readReg(asm.R0, mm, b.types.of("mm_struct", "arg_end"))
	b.add(asm.StoreMem(asm.RFP, stackNext, asm.R0, asm.DWord))
	b.readReg(asm.R3, mm, b.types.of("mm_struct", "arg_start"))
	b.add(asm.LoadMem(asm.R2, asm.RFP, stackNext, asm.DWord),
		asm.JLE.Reg(asm.R2, asm.R3, "no args"),
		asm.Sub.Reg(asm.R2, asm.R3),
		asm.StoreMem(regScratch, p+procArgsAll, asm.R2, asm.DWord),
		asm.JLE.Imm(asm.R2, maxArgs, "all args"),
		asm.Mov.Imm(asm.R2, maxArgs))
	b.mark("all args")
	b.add(asm.StoreMem(asm.RFP, stackNext, asm.R2, asm.DWord),
		asm.Mov.Reg(asm.R1, regScratch), asm.Add.Imm(asm.R1, p+procArgs),
		asm.FnProbeReadUser.Call(),
		asm.JNE.Imm(asm.R0, 0, "no args"),
		asm.LoadMem(asm.R2, asm.RFP, stackNext, asm.DWord),
		asm.StoreMem(regScratch, p+procArgsLen, asm.R2, asm.Word))
	b.mark("no args")
	b.add(asm.Mov.Imm(asm.R0, 0))
}

// parent writes who started the process. regTask is the parent afterwards.
func (b *builder) parent() {
	const p = scratchProc
	b.readReg(regTask, regTask, b.types.of("task_struct", "real_parent"))
	b.readField(p+procParent, regTask, b.types.of("task_struct", "tgid"))
	b.readReg(regAt, regTask, b.types.of("task_struct", "group_leader"))
	b.readField(p+procParStart, regAt, b.types.of("task_struct", "start_boottime|real_start_time"))
	b.readField(p+procParComm, regAt, b.types.of("task_struct", "comm"))
	b.readReg(asm.R0, regTask, b.types.of("task_struct", "mm"))
	b.add(asm.JEq.Imm(asm.R0, 0, "no parent"))
	b.readReg(regAt, asm.R0, b.types.of("mm_struct", "exe_file"))
	b.add(asm.JEq.Imm(regAt, 0, "no parent"), asm.Add.Imm(regAt, b.types.of("file", "f_path").off))
	b.path(p+procParExe, p+procParExeLen, procParExeCut)
	b.mark("no parent")
	b.add(asm.Mov.Imm(asm.R0, 0))
}

// path writes the names of the struct path at regAt, from the file up to the root directory of
// the process in regTask, across mounts. Files that were removed keep their names.
func (b *builder) path(to, length int32, cut int64) {
	b.walks++
	label := func(name string) string { return fmt.Sprintf("%s of walk %d", name, b.walks) }
	dentry := asm.R6 // the context is not needed any more

	b.readReg(dentry, regAt, b.types.of("path", "dentry"))
	b.readReg(asm.R0, regAt, b.types.of("path", "mnt"))
	b.add(asm.StoreMem(asm.RFP, stackMount, asm.R0, asm.DWord))
	b.readReg(regAt, regTask, b.types.of("task_struct", "fs"))
	b.readReg(asm.R0, regAt, b.types.of("fs_struct", "root.dentry"))
	b.add(asm.StoreMem(asm.RFP, stackRootDir, asm.R0, asm.DWord))
	b.readReg(asm.R0, regAt, b.types.of("fs_struct", "root.mnt"))
	b.add(asm.StoreMem(asm.RFP, stackRootMnt, asm.R0, asm.DWord))
	b.startWalk(label)

	b.add(asm.JEq.Imm(dentry, 0, label("end")),
		asm.LoadMem(asm.R1, asm.RFP, stackRootDir, asm.DWord), asm.JNE.Reg(asm.R1, dentry, label("below root")),
		asm.LoadMem(asm.R1, asm.RFP, stackRootMnt, asm.DWord), asm.LoadMem(asm.R2, asm.RFP, stackMount, asm.DWord),
		asm.JEq.Reg(asm.R1, asm.R2, label("end")))
	b.mark(label("below root"))
	b.add(asm.LoadMem(asm.R0, asm.RFP, stackMount, asm.DWord))
	b.readReg(asm.R0, asm.R0, b.types.of("vfsmount", "mnt_root"))
	b.add(asm.JNE.Reg(asm.R0, dentry, label("name")))

	// At the root of a mount: go on where that is mounted.
	mnt := b.types.of("mount", "mnt").off
	b.add(asm.LoadMem(asm.R0, asm.RFP, stackMount, asm.DWord), asm.Sub.Imm(asm.R0, mnt),
		asm.StoreMem(asm.RFP, stackNode, asm.R0, asm.DWord))
	b.readReg(dentry, asm.R0, b.types.of("mount", "mnt_mountpoint"))
	b.add(asm.LoadMem(asm.R0, asm.RFP, stackNode, asm.DWord))
	b.readReg(asm.R0, asm.R0, b.types.of("mount", "mnt_parent"))
	b.add(asm.LoadMem(asm.R1, asm.RFP, stackNode, asm.DWord),
		asm.JEq.Reg(asm.R0, asm.R1, label("end")),
		asm.Add.Imm(asm.R0, mnt), asm.StoreMem(asm.RFP, stackMount, asm.R0, asm.DWord),
		asm.Ja.Label(label("step")))

	b.mark(label("name"))
	b.readReg(asm.R0, dentry, b.types.of("dentry", "d_parent"))
	b.add(asm.JEq.Reg(asm.R0, dentry, label("end")), asm.StoreMem(asm.RFP, stackNext, asm.R0, asm.DWord))
	b.readReg(asm.R3, dentry, b.types.of("dentry", "d_name.name"))
	b.name(to, label)
	b.add(asm.LoadMem(dentry, asm.RFP, stackNext, asm.DWord), asm.Ja.Label(label("step")))
	b.endWalk(length, cut, label)
}

// cgroup writes the names of the cgroup of regTask in the unified hierarchy, up to the root.
func (b *builder) cgroup() {
	b.walks++
	label := func(name string) string { return fmt.Sprintf("%s of walk %d", name, b.walks) }
	node := asm.R6

	b.readReg(asm.R0, regTask, b.types.of("task_struct", "cgroups"))
	b.readReg(asm.R0, asm.R0, b.types.of("css_set", "dfl_cgrp"))
	b.readReg(node, asm.R0, b.types.of("cgroup", "kn"))
	b.startWalk(label)
	b.readReg(asm.R0, node, b.types.of("kernfs_node", "__parent|parent"))
	b.add(asm.JEq.Imm(asm.R0, 0, label("end")), asm.StoreMem(asm.RFP, stackNext, asm.R0, asm.DWord))
	b.readReg(asm.R3, node, b.types.of("kernfs_node", "name"))
	b.name(scratchProc+procCgroup, label)
	b.add(asm.LoadMem(node, asm.RFP, stackNext, asm.DWord), asm.Ja.Label(label("step")))
	b.endWalk(scratchProc+procCgroupLen, procCgroupCut, label)
}

// startWalk begins a loop of at most maxDeep steps; regAt is how many bytes were written.
func (b *builder) startWalk(label func(string) string) {
	b.add(asm.Mov.Imm(regAt, 0), asm.StoreMem(asm.RFP, stackCount, regAt, asm.DWord))
	b.mark(label("step"))
	b.add(asm.LoadMem(asm.R1, asm.RFP, stackCount, asm.DWord),
		asm.JGE.Imm(asm.R1, maxDeep, label("cut")),
		asm.Add.Imm(asm.R1, 1), asm.StoreMem(asm.RFP, stackCount, asm.R1, asm.DWord))
}

// name appends the name at the address in R3 to what a walk writes.
func (b *builder) name(to int32, label func(string) string) {
	b.add(asm.JGT.Imm(regAt, pathLen-nameLen, label("cut")),
		asm.Mov.Reg(asm.R1, regScratch), asm.Add.Imm(asm.R1, to), asm.Add.Reg(asm.R1, regAt),
		asm.Mov.Imm(asm.R2, nameLen), asm.FnProbeReadKernelStr.Call(),
		asm.JSLE.Imm(asm.R0, 0, label("cut")), asm.JSGT.Imm(asm.R0, nameLen, label("cut")),
		asm.Add.Reg(regAt, asm.R0))
}

// endWalk writes how long the names are.
func (b *builder) endWalk(length int32, cut int64, label func(string) string) {
	b.mark(label("cut"))
	b.add(asm.LoadMem(asm.R1, regScratch, scratchProc+procFlags, asm.Word), asm.Or.Imm(asm.R1, int32(cut)),
		asm.StoreMem(regScratch, scratchProc+procFlags, asm.R1, asm.Word))
	b.mark(label("end"))
	b.add(asm.StoreMem(regScratch, int16(length), regAt, asm.Word))
}
