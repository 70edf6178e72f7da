package alert

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// Slack is the sink that posts to an incoming webhook of Slack, or of what takes
// the same: Mattermost, Rocket.Chat, Google Chat.
type Slack struct{ poster }

// NewSlack returns the sink of a URL, which is the password, too. Zero is a
// timeout of 10 seconds.
func NewSlack(url string, timeout time.Duration) (*Slack, error) {
	if err := checkURL(url); err != nil {
		return nil, err
	}
	return &Slack{newPoster(url, timeout, nil)}, nil
}

// Name is "slack".
func (*Slack) Name() string { return "slack" }

// Send posts the event as a message. There is no id in it that the other side
// looks at: an event that is sent again shows twice.
func (s *Slack) Send(ctx context.Context, e Event, _ time.Time) error {
	body, err := json.Marshal(map[string]string{"text": slackText(e)})
	if err != nil {
		return fmt.Errorf("encoding an alert: %w", err)
	}
	return s.post(ctx, body, nil)
}

// escape takes from a text what is a link or a mention there: names are others'
// words.
var escape = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

func slackText(e Event) string {
	text := "*" + string(e.Severity) + "* " + escape.Replace(e.Text)
	for _, line := range details(e) {
		text += "\n" + escape.Replace(line)
	}
	return text
}

// details are what an event says beside its sentences, a line each.
func details(e Event) (lines []string) {
	for _, d := range []struct{ name, value string }{
		{"What", string(e.Kind)}, {"Why", e.Reason}, {"Key", e.Key}, {"Owner", e.Owner}, {"Team", e.Team}, {"By", e.By}, {"Decision", e.Decision},
	} {
		if d.value != "" {
			lines = append(lines, d.name+": "+d.value)
		}
	}
	if !e.Due.IsZero() {
		lines = append(lines, "Due: "+e.Due.Format(time.RFC3339))
	}
	return lines
}
