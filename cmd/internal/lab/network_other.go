//go:build !linux

package lab

import (
	"errors"
	"net/netip"
)

var errLinux = errors.New("the lab needs network namespaces, which only Linux has")

type network struct {
	clients, server *space
	mirror          string
}

type space struct{}

func (*space) do(func() error) error { return errLinux }

func buildNetwork([]netip.Addr, bool) (*network, error) { return nil, errLinux }

func (*network) send(float64) (func() error, error) { return nil, errLinux }

func (*network) close() error { return nil }

func probe() error { return errLinux }
