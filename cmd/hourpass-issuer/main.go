// Command hourpass-issuer swaps a machine key plus an identity for a token of at
// most an hour.
package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/hourpass/hourpass/cmd/internal/issuerd"
	"github.com/hourpass/hourpass/cmd/internal/program"
)

func main() { program.Main(command(), 400) }

func command() *cobra.Command {
	return program.Command(program.Server{
		Name:  "hourpass-issuer",
		Short: "Swap a machine key plus an identity for a token of at most an hour",
		Long: `hourpass-issuer logs people in through the company's identity provider and swaps
a machine key plus an identity for a token of at most an hour.

Without a subcommand it serves until SIGTERM, then lets requests in flight
finish. A new issuer begins with "init", which makes its secrets and its store.`,
		Run:      issuerd.Run,
		Validate: issuerd.Validate,
	}, initCommand, backupCommand)
}

func initCommand(o *program.Options) *cobra.Command {
	return &cobra.Command{
		Use: "init", Short: "Make the secrets, the first signing key and the store that the configuration names", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return issuerd.Init(context.WithoutCancel(cmd.Context()), *o)
		},
	}
}

func backupCommand(o *program.Options) *cobra.Command {
	var to string
	cmd := &cobra.Command{
		Use: "backup --to PATH", Short: "Copy the SQLite store to a new file, while the issuer runs", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return issuerd.Backup(cmd.Context(), *o, to) },
	}
	cmd.Flags().StringVar(&to, "to", "", "make the copy at `PATH`, which must not be there yet")
	_ = cmd.MarkFlagRequired("to") // It fails only for a flag that is not there.
	return cmd
}
