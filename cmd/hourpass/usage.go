package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

// usageNumbers are the columns behind those that were asked for.
var usageNumbers = []string{"requests", "input_tokens", "output_tokens", "cached_tokens"}

func (c *cli) usageCommand() *cobra.Command {
	since := span(24 * time.Hour)
	var by []string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "usage", Short: "Show what is left of your budgets, and what your calls cost", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			issuerClient, access, err := c.fresh()
			if err != nil {
				return err
			}
			q := url.Values{"from": {time.Now().Add(-time.Duration(since)).UTC().Format(time.RFC3339)}, "by": {strings.Join(by, ",")}}
			var spent struct {
				Usage []map[string]any `json:"usage"`
			}
			if err := issuerClient.get(cmd.Context(), "/v1/usage?"+q.Encode(), access, &spent); err != nil {
				return err
			}
			var me struct {
				Budgets []budget `json:"budgets"`
			}
			if err := issuerClient.get(cmd.Context(), "/v1/me", access, &me); err != nil {
				return err
			}
			if asJSON {
				out := json.NewEncoder(cmd.OutOrStdout())
				out.SetIndent("", "  ")
				return out.Encode(map[string]any{"budgets": me.Budgets, "usage": spent.Usage})
			}
			return writeUsage(cmd.OutOrStdout(), me.Budgets, by, spent.Usage)
		},
	}
	flags := cmd.Flags()
	flags.Var(&since, "since", "how far back, such as 7d or 12h")
	flags.StringSliceVar(&by, "by", []string{"key", "model"}, "add up by `NAME`: key, identity, model, team, grant, hour, day (repeat for several)")
	flags.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// span is a time as people write it: 30d, 12h.
type span time.Duration

// Set reads days, or what [time.ParseDuration] reads.
func (s *span) Set(text string) error {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 10)
		*s = span(n) * span(24*time.Hour)
		return err
	}
	d, err := time.ParseDuration(text)
	*s = span(d)
	return err
}

func (s *span) String() string {
	if d := time.Duration(*s); d%(24*time.Hour) == 0 {
		return strconv.FormatInt(int64(d/(24*time.Hour)), 10) + "d"
	}
	return time.Duration(*s).String()
}

// Type is what the help calls it.
func (*span) Type() string { return "duration" }

// budget is how one limit stands.
type budget struct {
	Key    string    `json:"key_id"`
	Limit  string    `json:"limit"`
	Most   int64     `json:"most"`
	Spent  int64     `json:"spent"`
	Held   int64     `json:"held"`
	Left   int64     `json:"left"`
	Resets time.Time `json:"resets_at,omitzero"`
}

func writeUsage(w io.Writer, budgets []budget, by []string, rows []map[string]any) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	lines := []string{"KEY\tLIMIT\tOF\tSPENT\tLEFT\tUNTIL"}
	for _, b := range budgets {
		until := ""
		if !b.Resets.IsZero() {
			until = b.Resets.Local().Format(time.DateTime)
		}
		lines = append(lines, strings.Join([]string{b.Key, b.Limit, number(b.Most), number(b.Spent + b.Held), number(b.Left), until}, "\t"))
	}
	if len(budgets) == 0 {
		lines = []string{"No limits."}
	}
	lines = append(lines, "", strings.ToUpper(strings.Join(by, "\t")+"\tREQUESTS\tINPUT\tOUTPUT\tCACHED"))
	for _, row := range rows {
		var cells []string
		for _, name := range by {
			cells = append(cells, fmt.Sprint(row[name]))
		}
		for _, name := range usageNumbers {
			n, _ := row[name].(float64)
			cells = append(cells, number(int64(n)))
		}
		lines = append(lines, strings.Join(cells, "\t"))
	}
	if len(rows) == 0 {
		lines = append(lines[:len(lines)-1], "No calls.")
	}
	if _, err := fmt.Fprintln(table, strings.Join(lines, "\n")); err != nil {
		return err
	}
	return table.Flush()
}

func number(n int64) string { return strconv.FormatInt(n, 10) }

func (c *cli) watchCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "watch", Short: "See which keys spend far more than they used to"}
	cmd.AddCommand(c.replayCommand())
	return cmd
}

func (c *cli) replayCommand() *cobra.Command {
	since := span(30 * 24 * time.Hour)
	var factor float64
	var floor int64
	var asJSON bool
	cmd := &cobra.Command{
		Use: "replay", Short: "Show what the watch would have found in the usage that was recorded", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			issuerClient, access, err := c.fresh()
			if err != nil {
				return err
			}
			q := url.Values{"since": {time.Now().Add(-time.Duration(since)).UTC().Format(time.RFC3339)}}
			if factor != 0 {
				q.Set("factor", strconv.FormatFloat(factor, 'g', -1, 64))
			}
			if floor != 0 {
				q.Set("floor", number(floor))
			}
			var answer struct {
				Hours     int64 `json:"hours"`
				Truncated bool  `json:"truncated"`
				Flagged   []struct {
					Key       string    `json:"key_id"`
					Hour      time.Time `json:"hour"`
					Tokens    int64     `json:"tokens"`
					Baseline  int64     `json:"baseline"`
					Threshold int64     `json:"threshold"`
				} `json:"flagged"`
			}
			if err := issuerClient.get(cmd.Context(), "/v1/watch/replay?"+q.Encode(), access, &answer); err != nil {
				return err
			}
			if asJSON {
				out := json.NewEncoder(cmd.OutOrStdout())
				out.SetIndent("", "  ")
				return out.Encode(answer)
			}
			table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			lines := []string{"KEY\tHOUR\tTOKENS\tUSUAL\tTOO MUCH FROM"}
			for _, f := range answer.Flagged {
				lines = append(lines, strings.Join([]string{f.Key, f.Hour.Local().Format(time.DateTime), number(f.Tokens), number(f.Baseline), number(f.Threshold)}, "\t"))
			}
			if len(answer.Flagged) == 0 {
				lines = nil
			}
			last := fmt.Sprintf("%d of %d hours of spending would have been too much.", len(answer.Flagged), answer.Hours)
			if answer.Truncated {
				last = "There are more. " + last
			}
			if _, err := fmt.Fprintln(table, strings.Join(append(lines, last), "\n")); err != nil {
				return err
			}
			return table.Flush()
		},
	}
	flags := cmd.Flags()
	flags.Var(&since, "since", "how far back, up to 90d")
	flags.Float64Var(&factor, "factor", 0, "times what is usual (default: as configured)")
	flags.Int64Var(&floor, "floor", 0, "`TOKENS` an hour that are never too much (default: as configured)")
	flags.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
