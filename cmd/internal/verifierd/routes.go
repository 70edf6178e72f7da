package verifierd

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/hourpass/hourpass/verifier"
)

// Routes writes which routes there are: all, or those that servers of one family
// have; as a table, or as a JSON array.
func Routes(w io.Writer, family string, asJSON bool) error {
	rows, known := []verifier.RouteRow{}, []string{}
	for _, r := range verifier.Table() {
		if family == "" || slices.Contains(r.Families, family) {
			rows = append(rows, r)
		}
		if !slices.Contains(known, r.Families[0]) {
			known = append(known, r.Families[0])
		}
	}
	if len(rows) == 0 {
		return fmt.Errorf("%q is no API that the verifier speaks; it speaks %s", family, strings.Join(known, ", "))
	}
	if asJSON {
		e := json.NewEncoder(w)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		return e.Encode(rows)
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "METHOD\tPATH\tSCOPE\tMODEL IN\tSTREAMS\tAPI") //nolint:errcheck // Flush tells.
	for _, r := range rows {
		model := r.Model
		if r.Bound {
			model += ", or none"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\n", r.Method, r.Path, r.Action, model, r.Stream, strings.Join(r.Families, " ")) //nolint:errcheck // Flush tells.
	}
	return table.Flush()
}
