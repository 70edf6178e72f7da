package audit

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// Read returns the records of the file at path, in order: not the log's own
// lines, nor what a crash cut off, nor a last line that is not finished. It
// checks nothing; that is for [Verify].
func Read(path string) ([]Record, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the audit log: %w", err)
	}
	defer func() { _ = file.Close() }()
	var list []Record
	in := bufio.NewReaderSize(file, MaxLine)
	for row := 1; ; row++ {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			return list, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading line %d of the audit log: %w", row, err)
		}
		e, ok := parse(line[:len(line)-1])
		if !ok || strings.HasPrefix(e.event, logEvents) {
			continue
		}
		var r Record
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, fmt.Errorf("reading line %d of the audit log: %w", row, err)
		}
		list = append(list, r)
	}
}
