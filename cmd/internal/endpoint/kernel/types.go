//go:build linux

package kernel

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf/btf"
)

// member is where a member of a struct of the running kernel lies, in bytes.
type member struct{ off, size int32 }

// types finds members in the kernel's own description of its types (BTF).
type types struct {
	spec *btf.Spec
	err  error // the first member that was not found
}

func loadTypes() (*types, error) {
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		return nil, fmt.Errorf("read the kernel's types (option DEBUG_INFO_BTF): %w", err)
	}
	return &types{spec: spec}, nil
}

// of returns a member of a struct, or of the structs within it: "a.b". A name that differs
// between kernels is given as "new|old". What is not there is kept in types.err.
func (t *types) of(name, path string) member {
	var s *btf.Struct
	err := t.spec.TypeByName(name, &s)
	var m member
	var at btf.Type = s
	for step := range strings.SplitSeq(path, ".") {
		if err != nil {
			break
		}
		var off int32
		at, off, err = find(at, strings.Split(step, "|"))
		m.off += off
	}
	if err == nil {
		size, e := btf.Sizeof(at)
		m.size, err = int32(size), e
	}
	if err != nil && t.err == nil {
		t.err = fmt.Errorf("kernel type %s, member %s: %w", name, path, err)
	}
	return m
}

var errNoMember = errors.New("not in this kernel")

// find looks for a member by any of its names, also in structs and unions without a name.
func find(at btf.Type, names []string) (btf.Type, int32, error) {
	var members []btf.Member
	switch s := btf.UnderlyingType(at).(type) {
	case *btf.Struct:
		members = s.Members
	case *btf.Union:
		members = s.Members
	}
	for _, m := range members {
		for _, name := range names {
			if m.Name == name {
				return m.Type, int32(m.Offset.Bytes()), nil
			}
		}
		if m.Name == "" {
			if found, off, err := find(m.Type, names); err == nil {
				return found, int32(m.Offset.Bytes()) + off, nil
			}
		}
	}
	return nil, 0, errNoMember
}
