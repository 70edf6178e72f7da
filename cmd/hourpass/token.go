package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hourpass/hourpass/keys/format"
)

func (c *cli) tokenCommand() *cobra.Command {
	var scopes []string
	var audience string
	cmd := &cobra.Command{
		Use: "token", Short: "Print a fresh token", Args: cobra.NoArgs,
		Long: `token prints one fresh token, for example for a tool that reads an API key:

  OPENAI_API_KEY=$(hourpass token) tool

It takes the login of "hourpass login" and the machine key of this computer, or
the one in HOURPASS_KEY.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			form := url.Values{}
			if len(scopes) > 0 {
				form.Set("scope", strings.Join(scopes, " "))
			}
			if audience != "" {
				form.Set("audience", audience)
			}
			token, err := c.freshToken(cmd.Context(), form)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), token)
			return err
		},
	}
	cmd.Flags().StringSliceVar(&scopes, "scope", nil, "ask for that `ACTION:MODEL` only (repeat for several; default: the grant's)")
	cmd.Flags().StringVar(&audience, "audience", "", "ask for a token for the verifier of that `NAME` (default: the issuer's first)")
	return cmd
}

// freshToken swaps login and key for a token. The login's refresh token rotates
// at each use, so one run at a time holds the state, and what came is kept before
// anything else happens.
func (c *cli) freshToken(ctx context.Context, form url.Values) (token string, err error) {
	err = c.state.update(func(s *state) error {
		if s.Refresh == "" {
			return errNoLogin
		}
		id, key := s.KeyID, s.Key
		if given := c.getenv("HOURPASS_KEY"); given != "" {
			if id, err = format.ParseID(given); err != nil {
				return fmt.Errorf("HOURPASS_KEY: %w", err)
			}
			key = given
		}
		if key == "" {
			return errNoKey
		}
		issuerClient, err := newClient(s.Issuer)
		if err != nil {
			return err
		}
		form.Set("grant_type", "refresh_token")
		form.Set("refresh_token", s.Refresh)
		t, err := issuerClient.token(ctx, id, key, form)
		if err != nil {
			return explain(err)
		}
		s.Refresh, token = t.Refresh, t.Access
		return nil
	})
	return token, err
}

// explain adds what to do next to a refusal that a person can mend.
func explain(err error) error {
	var no *refused
	if errors.As(err, &no) && no.Code == "invalid_client" {
		return fmt.Errorf("%w\nThe machine key is not known to this issuer: run hourpass keys create --grant NAME", err)
	}
	return err
}
