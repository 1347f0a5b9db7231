package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
)

// tolerant is a plain caller that takes header fields in any case, as servers of others write them, and large answers.
type tolerant struct {
	conn    net.Conn
	in      *bufio.Reader
	request []byte
}

// overHTTP makes tolerant callers of one request.
func overHTTP(address string, request []byte) func(context.Context) (caller, error) {
	return func(ctx context.Context) (caller, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, err
		}
		if deadline, ok := ctx.Deadline(); ok {
			if err := conn.SetDeadline(deadline); err != nil { // once: a server that hangs ends the stage, at no cost per request
				return nil, errors.Join(err, conn.Close())
			}
		}
		return &tolerant{conn: conn, in: bufio.NewReaderSize(conn, 128<<10), request: request}, nil
	}
}

func (c *tolerant) close() { _ = c.conn.Close() } // nothing is left to be told

// The first line of every good answer, and the header field that says where its body ends.
var (
	goodStatus    = []byte("HTTP/1.1 200 OK\r\n")
	contentLength = []byte("content-length:")
)

func (c *tolerant) ask(context.Context) error {
	if _, err := c.conn.Write(c.request); err != nil {
		return err
	}
	status, err := c.in.ReadSlice('\n')
	if err != nil {
		return err
	}
	good := bytes.Equal(status, goodStatus)
	words := ""
	if !good {
		words = string(status)
	}
	size := -1
	for {
		field, err := c.in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(field) <= 2 {
			break
		}
		if len(field) > len(contentLength) && bytes.EqualFold(field[:len(contentLength)], contentLength) {
			if size, err = strconv.Atoi(string(bytes.TrimSpace(field[len(contentLength):]))); err != nil {
				return err
			}
		}
	}
	switch {
	case size < 0:
		return errors.New("the answer has no length")
	case !good:
		text, _ := io.ReadAll(io.LimitReader(c.in, int64(min(size, 500)))) // the status is the error anyway
		return fmt.Errorf("%s%s", words, text)
	}
	_, err = c.in.Discard(size)
	return err
}
