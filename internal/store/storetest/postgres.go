package storetest

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // names itself "pgx" in database/sql
)

// The bounds of our own server.
const (
	startTimeout = 60 * time.Second
	socketMax    = 90 // bytes of a socket's path; the system allows 107, and the file name takes some
)

// running is a started server. Hold is the pipe that keeps it alive: a closed one, even by the garbage collector, stops it.
type running struct {
	dir  string
	hold io.Closer
}

// server is the one of this test process: started by the first test that asks, and shared, because making one takes
// seconds. It cannot be stopped by a test's end, so it hangs on this process by a pipe: see startServer.
var server = sync.OnceValues(startServer)

var databases atomic.Int64 // made so far, for their names

// Postgres gives the URL of a new, empty database on a PostgreSQL server of our own: started from Debian's package with a
// temporary directory, reachable only through a private unix socket, with fsync on. Databases, server and directory go
// with the test process, however that ends; dropping a database alone would cost a checkpoint per test.
func Postgres(t testing.TB) (url string) {
	t.Helper()
	url, err := NewPostgres(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return url
}

// NewPostgres is Postgres for programs that measure.
func NewPostgres(ctx context.Context) (url string, _ error) {
	started, err := server()
	if err != nil {
		return "", err
	}
	dir := started.dir
	name := fmt.Sprintf("test_%d", databases.Add(1))
	admin, err := sql.Open("pgx", databaseURL(dir, "postgres"))
	if err != nil {
		return "", err
	}
	defer func() { _ = admin.Close() }()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if _, err := admin.ExecContext(ctx, "CREATE DATABASE "+name); err != nil {
		return "", fmt.Errorf("create database %s: %w", name, err)
	}
	return databaseURL(dir, name), nil
}

func databaseURL(dir, name string) string {
	return "postgres:///" + name + "?" + url.Values{"host": {dir}, "user": {"penstock"}}.Encode()
}

// supervise makes the data directory, runs the server, and waits for the end of its standard input: the pipe whose
// other end only the test process holds. Then it ends the server by its process id, at once because
// nothing is kept, and removes everything. $1 is the
// folder of the programs, $2 the directory.
const supervise = `set -e
cd "$2"
"$1/initdb" --pgdata=data --username=penstock --auth=trust --encoding=UTF8 --locale=C.UTF-8 --no-sync >log 2>&1
"$1/postgres" -D data -k "$2" -c listen_addresses= -c unix_socket_permissions=0700 -c max_connections=60 >>log 2>&1 </dev/null &
server=$!
set +e
echo started
cat >/dev/null
kill -QUIT "$server" 2>/dev/null
wait "$server"
cd /
rm -rf "$2"
`

// startServer returns once the server answers.
func startServer() (none running, _ error) {
	programs, err := serverPrograms()
	if err != nil {
		return none, err
	}
	dir, err := socketDir()
	if err != nil {
		return none, err
	}
	command := exec.Command("/bin/sh", "-c", supervise, "supervise", programs, dir)
	command.Dir = "/"
	command.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C.UTF-8"}
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C goes to the test, whose end it then notices
	if os.Getuid() == 0 {                                     // the server refuses to run as root
		id, err := unprivileged()
		if err != nil {
			return none, err
		}
		if err := os.Chown(dir, int(id.Uid), int(id.Gid)); err != nil {
			return none, err
		}
		command.SysProcAttr.Credential = id
	}
	hold, err := command.StdinPipe() // never closed by us: the end of this process does it
	if err != nil {
		return none, err
	}
	output, err := command.StdoutPipe()
	if err != nil {
		return none, err
	}
	if err := command.Start(); err != nil {
		return none, fmt.Errorf("start PostgreSQL: %w", err)
	}
	if line, err := io.ReadAll(io.LimitReader(output, int64(len("started\n")))); string(line) != "started\n" {
		return none, errors.Join(fmt.Errorf("PostgreSQL's directory was not made: %s", logOf(dir)), err, command.Wait())
	}
	return running{dir, hold}, answers(dir)
}

// answers waits until the server takes connections.
func answers(dir string) error {
	db, err := sql.Open("pgx", databaseURL(dir, "postgres"))
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := db.PingContext(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("PostgreSQL does not answer: %w\n%s", err, logOf(dir))
		}
	}
}

func logOf(dir string) string {
	text, err := os.ReadFile(filepath.Join(dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(bytes.TrimSpace(text))
}

// serverPrograms finds the newest server that Debian's package put in its own folder, or one on the path.
func serverPrograms() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil {
		return "", err
	}
	if len(found) > 0 {
		return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return majorRelease(a) - majorRelease(b) })), nil
	}
	if path, err := exec.LookPath("initdb"); err == nil {
		return filepath.Dir(path), nil
	}
	return "", errors.New("these tests need a PostgreSQL server: apt-get install postgresql")
}

// majorRelease is the "15" of /usr/lib/postgresql/15/bin/initdb, 0 for anything else.
func majorRelease(path string) int {
	n, err := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
	if err != nil {
		return 0
	}
	return n
}

// socketDir makes a private directory with a path that is short enough for a socket.
func socketDir() (string, error) {
	base := os.TempDir()
	if os.Getuid() == 0 || len(base) > socketMax-len("/penstock-postgres-0123456789") {
		base = "/tmp" // everybody may pass it, which root's own temporary directory need not allow
	}
	return os.MkdirTemp(base, "penstock-postgres-")
}

// unprivileged is the user postgres, which the package made, or nobody.
func unprivileged() (*syscall.Credential, error) {
	account, err := user.Lookup("postgres")
	if err != nil {
		account, err = user.Lookup("nobody")
	}
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL does not run as root, and there is no other user: %w", err)
	}
	uid, uidErr := strconv.ParseUint(account.Uid, 10, 32)
	gid, gidErr := strconv.ParseUint(account.Gid, 10, 32)
	if err := errors.Join(uidErr, gidErr); err != nil {
		return nil, fmt.Errorf("user %s: %w", account.Username, err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}
