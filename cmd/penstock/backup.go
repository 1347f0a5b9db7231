package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
	"github.com/penstock/penstock/internal/server"
)

func (a *app) backupCommands() []*cobra.Command {
	var withoutBlobs bool
	cmd := a.withOutput(&cobra.Command{Use: "backup FILE", Short: "Back up the whole server while it serves", Args: cobra.ExactArgs(1),
		Long: `Back up the whole server while it serves: database, blobs and keys. FILE appears only when the backup is complete and
its digest is right. It holds secrets; keep it as you keep those. Needs an admin key of tenant default.

Blobs are in it wherever they lie. With --without-blobs they are not: for object stores that keep copies of their own.`,
		Example: `  penstock backup penstock-2026-01-31.tar`,
		RunE: a.asks(func(ctx context.Context, c *client.Client, args []string) error {
			var info api.BlobInfo
			err := a.writeWhole(args[0], 0o600, func(w io.Writer) (err error) {
				bar := a.progress(-1, "backup")
				take := c.Backup
				if withoutBlobs {
					take = c.BackupWithoutBlobs
				}
				info, err = take(ctx, io.MultiWriter(w, bar))
				bar.finish()
				return err
			})
			if err != nil {
				return err
			}
			return a.print(info, func() { fmt.Fprintf(a.out, "%s: %s, %s\n", args[0], size(info.Size), info.Digest) })
		})})
	cmd.Flags().BoolVar(&withoutBlobs, "without-blobs", false, "leave the blobs out; they must be kept safe where they lie")
	return []*cobra.Command{cmd}
}

func (a *app) restoreCommand() *cobra.Command {
	var store, blobs string
	cmd := &cobra.Command{Use: "restore FILE", Short: "Make a data directory from a backup", Args: cobra.ExactArgs(1),
		Long:    `Make a data directory from a backup. The directory named by --data must be empty or absent, and no server may run on it.`,
		Example: `  penstock restore penstock-2026-01-31.tar --data ./restored`,
		RunE: does(func(cmd *cobra.Command, args []string) error {
			if a.flags.data == "" {
				return usage(fmt.Errorf("name the directory to make with --data"))
			}
			file, err := os.Open(args[0])
			if err != nil {
				return usage(err)
			}
			defer file.Close()
			if err := server.Restore(cmd.Context(), file, server.Config{Data: a.flags.data, Store: store, Blobs: blobs}, slog.Default()); err != nil {
				return fmt.Errorf("restore %s: %w", args[0], err)
			}
			fmt.Fprintf(a.out, "restored into %s\n", a.flags.data)
			return nil
		}),
	}
	cmd.Flags().StringVar(&store, "store", "", "database to restore into; default is penstock.db in the data directory")
	cmd.Flags().StringVar(&blobs, "blobs", "", "where to restore the blobs to, as with serve; default is blobs in the data directory")
	return cmd
}

// writeWhole writes a file under another name beside it, and gives it its name when it is complete and on disk.
func (a *app) writeWhole(path string, mode os.FileMode, write func(io.Writer) error) (err error) {
	directory, name := filepath.Split(path)
	if directory == "" {
		directory = "."
	}
	file, err := os.CreateTemp(directory, "."+name+".*.part")
	if err != nil {
		return usage(err)
	}
	defer func() {
		if err != nil {
			file.Close()
			_ = os.Remove(file.Name()) // what cannot be removed is plainly named a part
		}
	}()
	if err := write(file); err != nil {
		return err
	}
	if err := file.Chmod(mode); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return err
	}
	return syncDirectory(directory)
}

func syncDirectory(path string) error {
	directory, err := os.Open(path)
	if err != nil {
		return err
	}
	defer directory.Close()
	return directory.Sync()
}
