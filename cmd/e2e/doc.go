// Package e2e holds the tests that need more than one room: whole programs over
// real sockets, with peers that this project did not write. It has no code of
// its own.
package e2e
