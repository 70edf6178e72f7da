package main

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/hourpass/hourpass/internal/policy"
)

func (c *cli) keysCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "keys", Short: "Create, list and disable your machine keys"}
	cmd.AddCommand(c.createKeyCommand(), c.listKeysCommand(), c.disableKeyCommand())
	return cmd
}

// fresh returns a client and the access token of a login that is still fresh.
func (c *cli) fresh() (*client, string, error) {
	s, err := c.state.read()
	if err != nil {
		return nil, "", err
	}
	if s.Access == "" {
		return nil, "", errNoLogin
	}
	if !time.Now().Before(s.Fresh) {
		return nil, "", errors.New("keys change only after a fresh login: run hourpass login")
	}
	issuerClient, err := newClient(s.Issuer)
	return issuerClient, s.Access, err
}

func (c *cli) createKeyCommand() *cobra.Command {
	var ask struct {
		Grants      []string `json:"grants"`
		Description string   `json:"description,omitempty"`
		Team        string   `json:"team,omitempty"`
		IPRanges    []string `json:"ip_ranges,omitempty"`
		ExpiresIn   int64    `json:"expires_in,omitempty"`
	}
	var life time.Duration
	var printKey bool
	cmd := &cobra.Command{
		Use: "create", Short: "Create a machine key, bound to you, and keep it on this computer", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			issuerClient, access, err := c.fresh()
			if err != nil {
				return err
			}
			ask.ExpiresIn = int64(life / time.Second)
			var made struct {
				policy.Key
				Secret string `json:"key"`
			}
			if err := issuerClient.postJSON(cmd.Context(), "/v1/keys", access, ask, &made); err != nil {
				return err
			}
			if printKey {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), made.Secret)
				return err
			}
			if err := c.state.update(func(s *state) error {
				s.KeyID, s.Key = made.ID, made.Secret
				return nil
			}); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "Created key %s for %s, good until %s, and kept it in %s.\n",
				made.ID, strings.Join(made.Grants, ", "), made.ExpiresAt.Format(time.DateOnly), c.state)
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&ask.Grants, "grant", nil, "let the key have the grant of that `NAME` (repeat for several)")
	flags.StringVar(&ask.Description, "description", "", "what it is for")
	flags.StringVar(&ask.Team, "team", "", "the team it belongs to")
	flags.StringSliceVar(&ask.IPRanges, "ip", nil, "let its tokens be used from that `NETWORK` only (repeat for several)")
	flags.DurationVar(&life, "expires", 0, "how long it is good, such as 720h (default 90 days)")
	flags.BoolVar(&printKey, "print", false, "print the key instead of keeping it here")
	_ = cmd.MarkFlagRequired("grant") // It fails only for a flag that is not there.
	return cmd
}

func (c *cli) listKeysCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List your machine keys", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			issuerClient, access, err := c.fresh()
			if err != nil {
				return err
			}
			var answer struct {
				Keys []policy.Key `json:"keys"`
			}
			if err := issuerClient.get(cmd.Context(), "/v1/keys", access, &answer); err != nil {
				return err
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			lines := []string{"ID\tSTATE\tGRANTS\tEXPIRES\tLAST USED\tDESCRIPTION"}
			for _, k := range answer.Keys {
				used := "never"
				if !k.LastUsedAt.IsZero() {
					used = k.LastUsedAt.Format(time.DateTime)
				}
				lines = append(lines, strings.Join([]string{
					k.ID, string(k.State), strings.Join(k.Grants, ","),
					k.ExpiresAt.Format(time.DateOnly), used, k.Description,
				}, "\t"))
			}
			if _, err := fmt.Fprintln(table, strings.Join(lines, "\n")); err != nil {
				return err
			}
			return table.Flush()
		},
	}
}

func (c *cli) disableKeyCommand() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "disable ID", Short: "End the use of one of your machine keys", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			issuerClient, access, err := c.fresh()
			if err != nil {
				return err
			}
			var answer struct{}
			if err := issuerClient.postJSON(cmd.Context(), "/v1/keys/"+url.PathEscape(args[0])+"/disable", access,
				map[string]string{"reason": reason}, &answer); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "Disabled key %s: it gets no more tokens.\n", args[0])
			return err
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for whoever wonders")
	return cmd
}
