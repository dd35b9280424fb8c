//go:build !linux

package sandbox

// Confine returns ErrUnsupported.
func Confine(Config) (Confinement, error) { return Confinement{}, ErrUnsupported }

// Drop returns ErrUnsupported.
func Drop(Capabilities, *Account) (Capabilities, error) { return 0, ErrUnsupported }
