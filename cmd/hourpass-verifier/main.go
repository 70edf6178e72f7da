// Command hourpass-verifier stands in front of model servers and lets through
// the calls that carry a good token.
package main

import (
	"github.com/spf13/cobra"

	"github.com/hourpass/hourpass/cmd/internal/program"
	"github.com/hourpass/hourpass/cmd/internal/verifierd"
)

func main() { program.Main(command(), 200) }

func command() *cobra.Command {
	return program.Command(program.Server{
		Name:  "hourpass-verifier",
		Short: "Let through to model servers the calls that carry a good token",
		Long: `hourpass-verifier stands in front of model servers. It checks each call's token
against the issuer's published keys, holds the call to the token's scope, and
forwards it with a credential of its own.

Without a subcommand it serves until SIGTERM, then lets streams finish.`,
		Run:      verifierd.Run,
		Validate: verifierd.Validate,
	})
}
