package main

import (
	"fmt"
	"io"
	"strings"
)

// page is what the reader sees: coloured on a terminal, plain elsewhere.
type page struct {
	out    io.Writer
	colour bool
	err    error // The first failure to write.
	steps  int
}

// The colours of a terminal.
const (
	bold  = "1"
	dim   = "2"
	red   = "31"
	green = "32"
	cyan  = "36"
)

func (p *page) paint(colour, text string) string {
	if !p.colour {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

func (p *page) printf(format string, args ...any) {
	if _, err := fmt.Fprintf(p.out, format, args...); err != nil && p.err == nil {
		p.err = err
	}
}

// step begins the next step of the walk.
func (p *page) step(title string) {
	p.steps++
	p.printf("\n%s\n", p.paint(bold, fmt.Sprintf("%d. %s", p.steps, title)))
}

// command shows the line that repeats what follows.
func (p *page) command(line string) { p.printf("   %s\n", p.paint(dim, "$ "+line)) }

// good and bad show what came of it: let through, or refused.
func (p *page) good(format string, args ...any) { p.result(green, "✓", format, args...) }
func (p *page) bad(format string, args ...any)  { p.result(red, "✗", format, args...) }

func (p *page) result(colour, mark, format string, args ...any) {
	p.printf("   %s %s\n", p.paint(colour, mark), fmt.Sprintf(format, args...))
}

// show prints a document, indented.
func (p *page) show(text string) {
	for line := range strings.Lines(strings.TrimRight(text, "\n")) {
		p.printf("     %s\n", p.paint(cyan, strings.TrimRight(line, "\n")))
	}
}
