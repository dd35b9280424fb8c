package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"portolan/cmd/internal/config"
	"portolan/cmd/internal/selftest"
	"portolan/correlate"
	"portolan/sensor"
)

func selftestCommand() *command {
	return &command{
		name:  "selftest",
		brief: "proves that every hypothesis fires, and that a pair gets through a device",
		usage: []string{"portolan selftest [-i DEVICE] [--json] [FLAGS]"},
		about: fmt.Sprintf(`Makes, for every hypothesis in force, the operator's own and those that learn a constant among
them, lookups and the connections calculated from them, and checks that a correlator with the
same settings names each. With -i it also hands one lookup and the connection calculated from
it to the device's receive path, as if they had come from the line, and waits for the hit of a
sensor that captures there as portolan run would. Nothing leaves the device; the frames are
from addresses for documentation, for nobody's Ethernet address, and look up
%s. That takes CAP_BPF and CAP_NET_ADMIN on Linux 5.18; with CAP_NET_RAW
alone the pair goes through lo instead, which proves all but the device.

portolan run does both when it starts, and the second once an hour (setting selftest).`, selftest.Name),
		example: []string{"portolan selftest", "sudo portolan selftest -i eth1"},
		declare: func(o *options) action {
			asJSON := false
			o.bool(&asJSON, "json", "print one JSON object")
			o.settings("device", "rings", "prefilter", "mirror_port", "vxlan_ports",
				"alert", "watch", "volume_threshold", "ephemeral_port_range", "resolver_whitelist", "hypotheses")
			return func(ctx context.Context, p *program, args []string) error {
				if len(args) > 0 {
					return &usageError{text: fmt.Sprintf("selftest: unexpected argument %q", args[0]), hint: "the device goes after -i"}
				}
				cfg, err := o.load(p)
				if err != nil {
					return err
				}
				return p.selftest(ctx, &cfg, asJSON)
			}
		},
	}
}

// replayTest is what became of all hypotheses.
type replayTest struct {
	Hypotheses int                `json:"hypotheses"`
	Fired      int                `json:"fired"`
	Missing    []selftest.Outcome `json:"missing,omitempty"`
}

// text says it for people.
func (r *replayTest) text() string {
	return fmt.Sprintf("%d of %d hypotheses fired", r.Fired, r.Hypotheses)
}

// why names those that did not fire.
func (r *replayTest) why() string {
	var names []string
	for _, o := range r.Missing {
		if len(names) == 5 {
			names = append(names, fmt.Sprintf("and %d more", len(r.Missing)-5))
			break
		}
		names = append(names, fmt.Sprintf("%s %s: %s", o.ID, o.Name, o.Why))
	}
	return strings.Join(names, "; ")
}

// replayHypotheses has every hypothesis in force tried by a correlator with the settings of cfg.
func replayHypotheses(cfg *config.Config) (*replayTest, error) {
	c := selftest.Room(cfg.Correlate)
	correlator, err := correlate.New(c)
	if err != nil {
		return nil, err
	}
	return testHypotheses(&c, correlator)
}

func testHypotheses(cfg *correlate.Config, c selftest.Correlator) (*replayTest, error) {
	outcomes, err := selftest.Replay(cfg, c)
	if err != nil {
		return nil, err
	}
	r := &replayTest{Hypotheses: len(outcomes)}
	for _, o := range outcomes {
		if o.Fired {
			r.Fired++
		} else {
			r.Missing = append(r.Missing, o)
		}
	}
	return r, nil
}

// deviceTest is what became of a probe.
type deviceTest struct {
	Device string  `json:"device"`
	Path   string  `json:"path"` // pathDevice or pathLoopback
	OK     bool    `json:"ok"`
	After  float64 `json:"after_s,omitempty"`
	Why    string  `json:"why,omitempty"` // it did not come out, or did not go through the device
}

// Where a probe goes.
const (
	pathDevice   = "device"
	pathLoopback = "loopback"
)

// testDevice sends a probe through a device that nobody else captures on for it.
func testDevice(ctx context.Context, cfg *config.Config, device string) (deviceTest, error) {
	t := deviceTest{Device: device, Path: pathDevice}
	c := cfg.Capture
	c.Device, c.MirrorPort = device, slices.Contains(cfg.MirrorPorts, device)
	try := func(do func(context.Context, sensor.Config, selftest.Correlator) error) error {
		correlator, err := correlate.New(selftest.Room(cfg.Correlate))
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, selftest.Patience)
		defer cancel()
		begin := time.Now()
		err = do(ctx, c, correlator)
		t.After = time.Since(begin).Seconds()
		return err
	}
	err := try(selftest.NewProbe().Device)
	if errors.Is(err, selftest.ErrPrivilege) {
		t.Path, t.Why = pathLoopback, err.Error()
		err = try(selftest.NewProbe().Loopback)
	}
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		t.Why, t.After = err.Error(), 0
		return t, nil
	}
	t.OK = err == nil
	return t, err
}

func (p *program) selftest(ctx context.Context, cfg *config.Config, asJSON bool) error {
	replay, err := replayHypotheses(cfg)
	if err != nil {
		return err
	}
	failed := len(replay.Missing) > 0
	if !asJSON {
		fmt.Fprintf(p.stdout, "replay      %s\n", replay.text())
		for _, o := range replay.Missing {
			fmt.Fprintf(p.stdout, "  missing   %-12s %s: %s\n", o.ID, o.Name, o.Why)
		}
	}
	var devices []deviceTest
	for _, device := range cfg.Device {
		t, err := testDevice(ctx, cfg, device)
		if err != nil {
			return withHint(err, captureHint(err))
		}
		devices = append(devices, t)
		failed = failed || !t.OK
		if !asJSON {
			fmt.Fprintln(p.stdout, t.text())
		}
	}
	if asJSON {
		e := json.NewEncoder(p.stdout)
		e.SetEscapeHTML(false)
		if err := e.Encode(struct {
			*replayTest
			Devices []deviceTest `json:"devices,omitempty"`
		}{replay, devices}); err != nil {
			return err
		}
	}
	if failed {
		return statusError(exitFailed)
	}
	return nil
}

// text says it for people.
func (t *deviceTest) text() string {
	label := fmt.Sprintf("%-11s ", t.Device)
	after := lagText(time.Duration(t.After * float64(time.Second)))
	switch {
	case !t.OK:
		return label + "FAILED: " + t.Why
	case t.Path == pathLoopback:
		return label + "not tested itself (" + t.Why + "); through lo the pair came out as a hit, within " + after
	}
	return label + "the pair came out of its rings as a hit, within " + after
}
