// Command hourpass-dev is the local twin: an issuer, a verifier, a toy identity
// provider and a toy model server in one process, all on loopback, with its data
// in a fresh directory. It walks the way of a token before the reader's eyes and
// then stays, so that one can walk on.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/hourpass/hourpass/cmd/internal/program"
)

func main() {
	colour := term.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("NO_COLOR") == ""
	program.Main(command(colour), 400)
}

func command(colour bool) *cobra.Command {
	var once bool
	var dir string
	cmd := &cobra.Command{
		Use: "hourpass-dev", Short: "Run everything on this machine and walk through it", Args: cobra.NoArgs,
		SilenceUsage: true, SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return run(cmd.Context(), cmd.OutOrStdout(), dir, once, colour)
		},
	}
	cmd.Flags().BoolVar(&once, "once", false, "end after the walk, with 0 if all went as it should")
	cmd.Flags().StringVar(&dir, "data", "", "make the fresh data directory at `DIR` and leave it there (default: a temporary one)")
	cmd.AddCommand(program.VersionCommand("hourpass-dev"))
	return cmd
}

// run is the whole program: start the twin, walk, and stay unless once.
func run(ctx context.Context, out io.Writer, dir string, once, colour bool) (err error) {
	temporary := dir == ""
	if dir, err = freshDir(dir); err != nil {
		return err
	}
	t, err := start(ctx, dir)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, t.stop())
		if temporary && err == nil { // After a failure its logs are of interest.
			err = os.RemoveAll(dir)
		}
	}()
	p := &page{out: out, colour: colour}
	if err := walk(ctx, p, t); err != nil {
		return err
	}
	if once {
		return p.err
	}
	p.printf("\nIt all goes on running; the lines above work in another terminal (they need curl and jq).\n")
	p.printf("The same with the command line of people: hourpass login --issuer %s\nEnd with Ctrl-C.\n", t.issuer)
	<-ctx.Done()
	return p.err
}

// freshDir makes the directory for everything that the twin keeps. An old one
// is never used again: its secrets would not fit.
func freshDir(dir string) (string, error) {
	if dir == "" {
		return os.MkdirTemp("", "hourpass-dev-")
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", fmt.Errorf("making a fresh directory: %w", err)
	}
	return dir, nil
}
