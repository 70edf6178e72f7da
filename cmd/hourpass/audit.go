package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hourpass/hourpass/internal/audit"
)

func (c *cli) auditCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "audit", Short: "Check audit logs",
		// It needs no login, so nowhere to keep one.
		PersistentPreRunE: func(*cobra.Command, []string) error { return nil },
	}
	cmd.AddCommand(verifyAuditCommand())
	return cmd
}

// errNotGood is for the exit code: the report says what is wrong.
var errNotGood = errors.New("the audit log is not good")

// maxJWKS bounds what is read of a key set.
const maxJWKS = 256 << 10

func verifyAuditCommand() *cobra.Command {
	var trust, jwks []string
	var expect string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "verify FILE...", Short: "Check that nobody has changed an audit log", Args: cobra.MinimumNArgs(1),
		Long: `verify reads an audit log and says whether it is whole: each line in its place and
as it was written, each checkpoint signed. It needs nothing but the file; of a log
that was rotated, give all files, the oldest first. "-" is standard input.

Whoever can write the file can also write a new one, and sign it with a key of
his own. So say whose signatures count, and where an earlier check has ended:

  hourpass audit verify audit.jsonl.1 audit.jsonl --jwks issuer-keys.json \
    --expect 5321:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08

The exit code is 0 if the log is good, and else 1.`,
		RunE: func(cmd *cobra.Command, files []string) error {
			o, err := auditOptions(trust, jwks, expect)
			if err != nil {
				return err
			}
			report, err := checkAudit(cmd.InOrStdin(), files, o)
			if err != nil {
				return err
			}
			if asJSON {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				err = enc.Encode(report)
			} else {
				_, err = io.WriteString(cmd.OutOrStdout(), describeAudit(report))
			}
			if err == nil && report.Problem != nil {
				err = errNotGood
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&trust, "trust", nil, "let the key of that `THUMBPRINT` sign, and no other (RFC 7638; repeat for several)")
	flags.StringSliceVar(&jwks, "jwks", nil, "let the keys in that `FILE` sign, and no others (a JWK Set, such as the issuer publishes; repeat for several)")
	flags.StringVar(&expect, "expect", "", "demand that the line of that `NUMBER:HASH` is there, as an earlier check told it")
	flags.BoolVar(&asJSON, "json", false, "print the report as JSON")
	return cmd
}

func auditOptions(trust, jwks []string, expect string) (o audit.Options, err error) {
	o.Trust = trust
	for _, path := range jwks {
		doc, err := readAtMost(path, maxJWKS)
		if err != nil {
			return o, fmt.Errorf("reading --jwks: %w", err)
		}
		prints, err := audit.Thumbprints(doc)
		if err != nil {
			return o, fmt.Errorf("reading --jwks %s: %w", path, err)
		}
		o.Trust = append(o.Trust, prints...)
	}
	if expect != "" {
		if o.Expect, err = audit.ParsePosition(expect); err != nil {
			return o, fmt.Errorf("reading --expect: %w", err)
		}
	}
	return o, nil
}

// readAtMost reads a file, and one byte more than limit at most, so that whoever
// checks the size sees that it is too long.
func readAtMost(path string, limit int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	return io.ReadAll(io.LimitReader(file, limit+1))
}

func checkAudit(stdin io.Reader, files []string, o audit.Options) (audit.Report, error) {
	check := audit.NewChecker(o)
	for _, name := range files {
		if err := checkAuditFile(check, stdin, name); err != nil {
			return audit.Report{}, fmt.Errorf("reading the audit log: %w", err)
		}
	}
	return check.Report(), nil
}

func checkAuditFile(check *audit.Checker, stdin io.Reader, name string) error {
	if name == "-" {
		return check.File("standard input", stdin)
	}
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	return check.File(name, file)
}

// describeAudit is the report for people: what is wrong first, then what was
// found, and what that does not prove.
func describeAudit(r audit.Report) string {
	var b strings.Builder
	line := func(label, format string, args ...any) {
		fmt.Fprintf(&b, "%-12s "+format+"\n", append([]any{label}, args...)...)
	}
	if p := r.Problem; p != nil {
		where := p.File
		if p.Row > 0 {
			where = fmt.Sprintf("%s, row %d", p.File, p.Row)
		}
		line("NOT GOOD", "%s: %s (%s)", where, p.Text, p.Kind)
		if r.Problems > 1 {
			line("", "and %s after it", count(r.Problems-1, "problem"))
		}
	} else {
		line("good", "%s, lines %d to %d", count(r.Records, "record"), r.First, r.Last.Line)
	}
	if r.First == 0 {
		return b.String()
	}
	line("log", "%s, written by %q", r.Log, r.Programs)
	if r.First > 1 {
		line("", "it begins before line %d, in a file that was not given", r.First)
	}
	line("from", "%s to %s", r.From.Format(time.RFC3339), r.To.Format(time.RFC3339))
	describeSignatures(r, line)
	if r.Torn > 0 {
		line("cut off", "%s, as a crash leaves it: %d bytes, which the log vouches for", count(r.Torn, "line"), r.TornBytes)
	}
	if r.Tail > 0 {
		line("unfinished", "the last line, of %d bytes: a crash, or a program that is writing it", r.Tail)
	}
	if r.Problem == nil {
		line("end", "%s (give it to the next check as --expect)", r.Last)
	}
	return b.String()
}

func describeSignatures(r audit.Report, line func(label, format string, args ...any)) {
	if r.Checkpoints+r.Bad == 0 {
		line("checkpoints", "none: the lines are chained, but nothing is signed, so whoever can write the file can write it anew")
		return
	}
	line("checkpoints", "%d good, %d bad; they vouch for the lines up to %d", r.Checkpoints, r.Bad, r.Covered)
	if r.Uncovered > 0 {
		line("", "%s after it, which no signature vouches for yet", count(r.Uncovered, "record"))
	}
	for _, s := range r.Signatures {
		verdict := "not compared with anything: say --trust or --jwks"
		switch {
		case s.Trusted:
			verdict = "trusted"
		case r.Pinned:
			verdict = "NOT TRUSTED"
		}
		line("signed by", "%s (%s, %s; %s)", s.Thumbprint, s.Algorithm, count(s.Checkpoints, "checkpoint"), verdict)
	}
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
