// Command hourpass is the people's program: log in once a day, and give tools a
// fresh token each hour.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/hourpass/hourpass/cmd/internal/program"
)

func main() { program.Main(command(os.Getenv), 100) }

// command is the whole program, its environment given.
func command(getenv func(string) string) *cobra.Command {
	c := &cli{getenv: getenv}
	root := &cobra.Command{
		Use: "hourpass", Short: "Log in once a day, and give your tools a fresh token each hour",
		Long: `hourpass logs you in through your company's single sign-on and turns that login,
together with a machine key of this computer, into tokens that live an hour.

  hourpass login --issuer https://hourpass.example.com
  hourpass keys create --grant faq-read-only
  export OPENAI_BASE_URL=https://models.example.com/v1 OPENAI_API_KEY=$(hourpass token)`,
		SilenceUsage: true, SilenceErrors: true,
		PersistentPreRunE: func(*cobra.Command, []string) error { return c.locate() },
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(c.loginCommand(), c.keysCommand(), c.tokenCommand(), c.usageCommand(), c.watchCommand(), c.auditCommand(), program.VersionCommand("hourpass"))
	return root
}

// cli is what the subcommands share.
type cli struct {
	getenv func(string) string
	state  stateFile
}

// locate finds the file that holds this user's login and key:
// HOURPASS_STATE, or hourpass/state.json in the user's configuration folder.
func (c *cli) locate() error {
	if path := c.getenv("HOURPASS_STATE"); path != "" {
		c.state = stateFile(path)
		return nil
	}
	dir := c.getenv("XDG_CONFIG_HOME")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return fmt.Errorf("finding where to keep the login (set HOURPASS_STATE): %w", err)
		}
		dir = filepath.Join(home, ".config")
	}
	c.state = stateFile(filepath.Join(dir, "hourpass", "state.json"))
	return nil
}

var (
	errNoLogin = errors.New("not logged in: run hourpass login --issuer URL")
	errNoKey   = errors.New("this computer has no machine key: run hourpass keys create --grant NAME")
)
