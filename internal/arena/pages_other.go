//go:build !linux

package arena

import (
	"errors"
	"os"
)

// Other systems have no memory without a name that can be sealed: there tensors travel through the socket.
type pages struct{}

func (a *Arena) create(int64) error { return errors.ErrUnsupported }

func (pages) drop(_, _ int64) error { return errors.ErrUnsupported }

func (a *Arena) destroy(bool) error { return nil }

func mapped(*os.File, int64) ([]byte, error) { return nil, errors.ErrUnsupported }

func unmap([]byte) {}
