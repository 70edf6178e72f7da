// Package program is what the command lines of the servers have in common: their
// flags, their subcommands, and the process around them.
package program

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/hourpass/hourpass/internal/audit"
)

// Version is what the build says of itself; the Makefile sets it.
var Version = "devel"

// Options are what a server is started with.
type Options struct {
	Config string   // The path of the YAML file.
	Sets   []string // "path=value", over file and environment.
	Env    []string // As os.Environ.
	Stdout io.Writer
	Stderr io.Writer
	Now    func() time.Time // Nil is time.Now.
}

// Clock is what the server takes for now.
func (o Options) Clock() func() time.Time {
	if o.Now == nil {
		return time.Now
	}
	return o.Now
}

// Log is where a server logs: JSON lines on standard error.
func (o Options) Log() *slog.Logger { return slog.New(slog.NewJSONHandler(o.Stderr, nil)) }

// Server says what a server does.
type Server struct {
	Name, Short, Long string
	Run               func(context.Context, Options) error // Until the context ends.
	Validate          func(context.Context, Options) error
}

// Command makes the server's command line: to run it is the default, "validate"
// checks the configuration, "version" tells the build.
func Command(s Server, more ...func(*Options) *cobra.Command) *cobra.Command {
	o := &Options{Env: os.Environ()}
	root := &cobra.Command{
		Use: s.Name, Short: s.Short, Long: s.Long, Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		PersistentPreRun: func(cmd *cobra.Command, _ []string) {
			o.Stdout, o.Stderr = cmd.OutOrStdout(), cmd.ErrOrStderr()
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return s.Run(cmd.Context(), *o) },
	}
	root.PersistentFlags().StringVar(&o.Config, "config", "", "read the configuration from `FILE` (YAML)")
	root.PersistentFlags().StringArrayVar(&o.Sets, "set", nil, "set one value, as `PATH=VALUE`, over the file and the environment")
	_ = root.MarkPersistentFlagRequired("config") // It fails only for a flag that is not there.
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(
		&cobra.Command{
			Use: "validate", Short: "Check the configuration and say all that is wrong with it", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				if err := s.Validate(cmd.Context(), *o); err != nil {
					return err
				}
				_, err := fmt.Fprintln(o.Stdout, o.Config+": ok")
				return err
			},
		},
		VersionCommand(s.Name),
	)
	for _, add := range more {
		root.AddCommand(add(o))
	}
	return root
}

// VersionCommand prints the program's name and version.
func VersionCommand(name string) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		// No flag of the parent's is needed to tell a version.
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), name, Version)
			return err
		},
	}
}

// Reopen opens the audit log anew whenever the process gets a SIGHUP, until ctx
// ends: what rotates logs has moved the file.
func Reopen(ctx context.Context, log *slog.Logger, records *audit.Log) error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	for {
		select {
		case <-hangup:
			if err := records.Reopen(); err != nil {
				log.Error("opening the audit log anew", "err", err.Error())
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// Main runs cmd as the process: SIGINT and SIGTERM end its context, an error is
// told on standard error and exits with 1. The percentage is the garbage
// collector's, unless GOGC says another; GOMEMLIMIT counts as ever.
func Main(cmd *cobra.Command, gcPercent int) {
	// What lives on a server's heap is small, so the default of 100 would collect it
	// hundreds of times a second under load.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := cmd.ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", cmd.Name(), err)
		os.Exit(1)
	}
}
