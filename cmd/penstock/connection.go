package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"github.com/penstock/penstock/api"
	"github.com/penstock/penstock/client"
)

const (
	serverDefault = "127.0.0.1:8000"
	dataDefault   = "./penstock-data"
	settingsMax   = 1 << 20 // bytes of a config file or key file
)

// connectionFlags are the flags that every command has.
type connectionFlags struct {
	server, key, tenant, config, data string
}

func (f *connectionFlags) add(root *cobra.Command) {
	flags := root.PersistentFlags()
	flags.StringVar(&f.server, "server", "", "server's address (PENSTOCK_SERVER)")
	flags.StringVar(&f.key, "key", "", "API key (PENSTOCK_KEY; a flag can be seen by others on this machine)")
	flags.StringVar(&f.tenant, "tenant", "", "tenant (PENSTOCK_TENANT); the key's own when left out")
	flags.StringVar(&f.config, "config", "", "config file (PENSTOCK_CONFIG)")
	flags.StringVar(&f.data, "data", "", "data directory of a local server (PENSTOCK_DATA; default "+dataDefault+")")
}

// settings is the config file.
type settings struct {
	Server string `yaml:"server"`
	Key    string `yaml:"key"`
	Tenant string `yaml:"tenant"`
}

// connect finds server, key and tenant: flags, then environment, then config file, then the local data directory. A key
// is not sent to a server that it was not meant for: the config file's goes to the config file's server, and the local
// one to this machine.
func (a *app) connect() (*client.Client, error) {
	cfg, err := a.connection()
	if err != nil {
		return nil, err
	}
	c, err := client.New(cfg)
	return c, usage(err)
}

func (a *app) connection() (cfg client.Config, err error) {
	file, err := a.readSettings()
	if err != nil {
		return cfg, err
	}
	named := first(a.flags.server, a.env("PENSTOCK_SERVER"))
	server := first(named, file.Server, a.localServer(), serverDefault)
	key := first(a.flags.key, a.env("PENSTOCK_KEY"))
	if key == "" && (file.Server == "" || server == file.Server) {
		key = file.Key
	}
	if key == "" && onThisMachine(server) {
		if key, err = a.localKey(); err != nil {
			return cfg, err
		}
	}
	tenant := first(a.flags.tenant, a.env("PENSTOCK_TENANT"), file.Tenant)
	return client.Config{Server: server, Key: key, Tenant: api.TenantID(tenant), Agent: "penstock-cli/" + version()}, nil
}

func (a *app) readSettings() (settings, error) {
	var s settings
	path := first(a.flags.config, a.env("PENSTOCK_CONFIG"))
	chosen := path != ""
	if !chosen {
		base := a.env("XDG_CONFIG_HOME")
		if base == "" && a.env("HOME") == "" {
			return s, nil
		}
		path = filepath.Join(first(base, filepath.Join(a.env("HOME"), ".config")), "penstock", "config.yaml")
	}
	text, err := readBounded(path)
	if errors.Is(err, fs.ErrNotExist) && !chosen {
		return s, nil
	}
	if err != nil {
		return s, usage(fmt.Errorf("read the config file: %w", err))
	}
	if err := yaml.UnmarshalWithOptions(text, &s, yaml.Strict()); err != nil && strings.TrimSpace(string(text)) != "" {
		// The parser's message quotes the lines around the fault, where the key may stand.
		return s, usage(fmt.Errorf("the config file %s is not YAML with server, key and tenant", path))
	}
	return s, nil
}

// dataDirectory is where a local server keeps its data.
func (a *app) dataDirectory() string { return first(a.flags.data, a.env("PENSTOCK_DATA"), dataDefault) }

// localServer is the address that a server of this data directory wrote when it started. One that listens everywhere is
// asked on loopback, where the local key may go.
func (a *app) localServer() string {
	told := a.localAddresses()
	if told.TLS {
		return "https://" + told.HTTP
	}
	return told.HTTP
}

// addresses are what a server wrote when it started; empty where nothing is known.
type addresses struct {
	HTTP string `json:"http"`
	GRPC string `json:"grpc"`
	TLS  bool   `json:"tls"`
}

func (a *app) localAddresses() addresses {
	var told addresses
	text, err := readBounded(filepath.Join(a.dataDirectory(), "run", "server.json"))
	if err != nil || json.Unmarshal(text, &told) != nil {
		return addresses{}
	}
	for _, address := range []*string{&told.HTTP, &told.GRPC} {
		if host, port, err := net.SplitHostPort(*address); err == nil && net.ParseIP(host).IsUnspecified() {
			*address = net.JoinHostPort("127.0.0.1", port)
		}
	}
	return told
}

// localKey reads the key that the server made at its first start; a missing one is no error, since --dev needs none.
func (a *app) localKey() (string, error) {
	text, err := readBounded(filepath.Join(a.dataDirectory(), "secrets", "admin.key"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if errors.Is(err, fs.ErrPermission) {
		return "", nil // another user's server; it may still be open to callers without a key
	}
	if err != nil {
		return "", fmt.Errorf("read the local key: %w", err)
	}
	return strings.TrimSpace(string(text)), nil
}

func onThisMachine(server string) bool {
	if !strings.Contains(server, "://") {
		server = "http://" + server
	}
	u, err := url.Parse(server)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && ip.IsLoopback()
}

// readBounded reads a small file whole.
func readBounded(path string) ([]byte, error) { return readUpTo(path, settingsMax) }

func readUpTo(path string, limit int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(text)) > limit {
		return nil, fmt.Errorf("%s is over %d bytes", path, limit)
	}
	return text, err
}

func first(choices ...string) string {
	for _, c := range choices {
		if c != "" {
			return c
		}
	}
	return ""
}
