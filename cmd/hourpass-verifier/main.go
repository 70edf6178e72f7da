// Command hourpass-verifier stands in front of model servers and lets through
// the calls that carry a good token.
package main

import (
	"strings"

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
	}, routesCommand)
}

func routesCommand(o *program.Options) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "routes [API]", Short: "List the routes that calls may take, all or those of one kind of server", Args: cobra.MaximumNArgs(1),
		PreRun: func(cmd *cobra.Command, _ []string) {
			// They are the same whatever the configuration says.
			_ = cmd.Flags().SetAnnotation("config", cobra.BashCompOneRequiredFlag, []string{"false"})
		},
		RunE: func(_ *cobra.Command, args []string) error {
			return verifierd.Routes(o.Stdout, strings.Join(args, ""), asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "list them as a JSON array, with all that is known of each")
	return cmd
}
