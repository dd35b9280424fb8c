package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"portolan/cmd/internal/doctor"
	"portolan/cmd/internal/lab"
)

// doctored runs "portolan doctor" as a process of its own in a wire's network, while the frames of a capture
// come out of the wire again and again.
func doctored(t *testing.T, w *lab.Wire, path string, args ...string) (r doctor.Report, status int) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	none := filepath.Join(dir, "none.yaml")
	if err := os.WriteFile(none, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), self, append([]string{"doctor", "-i", lab.WireDevice, "--json", "--rings", "2"}, args...)...)
	cmd.Args[0] = "portolan" // what TestMain goes by
	cmd.Env = append(os.Environ(), "PORTOLAN_CONFIG="+none, "PORTOLAN_STATE_DIR="+filepath.Join(dir, "state"), "PORTOLAN_SENSOR=tester")
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := w.Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var frames []capturedFrame
	if path != "" {
		_, _, frames = readPcap(t, path)
	}
	err = w.Do(func() error {
		near, err := net.InterfaceByName(lab.NearDevice)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for {
			for chunk := range slices.Chunk(frames, 16) {
				for _, f := range chunk {
					if err := unix.Sendto(fd, f.frame, 0, &unix.SockaddrLinklayer{Ifindex: near.Index}); err != nil && !errors.Is(err, unix.ENOBUFS) {
						return err
					}
				}
				time.Sleep(5 * time.Millisecond)
			}
			select {
			case err := <-ended:
				if exit := new(exec.ExitError); errors.As(err, &exit) {
					status, err = exit.ExitCode(), nil
				}
				return err
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(stdout.Bytes(), &r); err != nil {
		t.Fatalf("%v in %q, %s", err, stdout.String(), stderr.String())
	}
	return r, status
}

// TestDoctorNamesLiveMirrors has the doctor name failing mirrors on a device that carries them.
func TestDoctorNamesLiveMirrors(t *testing.T) {
	whole := filepath.Join("..", "..", "testdata", "pcap", "benign.pcap")
	for _, m := range mirrors {
		// Cut, merged and back-dated frames are what a capture's records say; no line carries them. What is
		// left out besides differs little from the others.
		if !slices.Contains([]string{"", "mirror.one-way", "dns.answers-missing", "dns.resolver-side", "mirror.duplicates", "zone.split"}, m.rule) &&
			(m.rule != "dns.elsewhere" || m.verdict != "BLIND") || m.rule == "mirror.one-way" && m.verdict != "BLIND" {
			continue
		}
		t.Run(m.name, func(t *testing.T) {
			w := testWire(t)
			t.Parallel()
			r, status := doctored(t, w, faulty(t, whole, m.make), "--for", "1s")
			if verdict := r.Find("verdict"); verdict == nil || !strings.HasPrefix(verdict.Evidence, m.verdict) || m.verdict == "BLIND" && status != 2 {
				t.Errorf("status %d, want %s: %+v", status, m.verdict, verdict)
			}
			if f := r.Find(m.rule); m.rule != "" && (f == nil || f.Status == doctor.OK || f.Remedy+f.Advice == "") {
				t.Errorf("%s is not named: %+v", m.rule, r.Findings)
			}
		})
	}
	t.Run("in VXLAN", func(t *testing.T) {
		w := testWire(t)
		t.Parallel()
		r, _ := doctored(t, w, filepath.Join("..", "..", "testdata", "pcap", "tunnel", "vxlan.pcap"), "--for", "1s")
		if f := r.Find("tunnel.inside"); f == nil || !strings.Contains(f.Evidence, "vxlan") {
			t.Errorf("%+v", r.Findings)
		}
	})
}

// TestDoctorOfDevice: what is wrong with a real device is found by asking the kernel, and a device without
// frames is called blind.
func TestDoctorOfDevice(t *testing.T) {
	w := testWire(t)
	fd := -1
	defer func() { unix.Close(fd) }()
	if err := w.Do(func() (err error) {
		device, err := net.InterfaceByName(lab.WireDevice)
		if err != nil {
			return err
		}
		all := uint16(unix.ETH_P_ALL>>8 | unix.ETH_P_ALL<<8)
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all)); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: device.Index})
	}); err != nil {
		t.Fatal(err)
	}
	r, status := doctored(t, w, "", "--for", "200ms")
	if status != 2 {
		t.Errorf("status %d of a silent device", status)
	}
	for check, want := range map[string]doctor.Finding{
		"link":     {Status: doctor.OK, Evidence: "veth"},
		"offloads": {Status: doctor.Warn, Evidence: "gro on", Remedy: "sudo ethtool -K mirror gro off"}, // the wire needs it
		"readers":  {Status: doctor.Warn, Evidence: strconv.Itoa(os.Getpid())},
		"verdict":  {Status: doctor.Bad, Evidence: "no frame"},
		"xdp":      {Status: doctor.OK, Evidence: "no program"},
	} {
		f := r.Find(check)
		if f == nil || f.Status != want.Status || !strings.Contains(f.Evidence, want.Evidence) || want.Remedy != "" && f.Remedy != want.Remedy {
			t.Errorf("%s: %+v", check, f)
		}
	}
}
