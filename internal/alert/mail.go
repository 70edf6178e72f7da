package alert

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	netmail "net/mail"
	"strconv"
	"strings"
	"time"

	"github.com/wneessen/go-mail"
)

// MailConfig says who is mailed, and through which server.
type MailConfig struct {
	Server   string // HOST:PORT of an SMTP server.
	From     string
	To       []string
	User     string // With Password; empty: it asks for none.
	Password string

	// TLS is "starttls", the default, or "implicit". "none" is for a server on
	// loopback, and without a password.
	TLS string

	// Roots vouch for the server. Nil: the system's.
	Roots *tls.Config
}

// Mail is the sink that sends a letter for each event.
type Mail struct {
	c       MailConfig
	host    string
	options []mail.Option
}

// maxRecipients bounds who is mailed.
const maxRecipients = 50

// NewMail checks c. It sends nothing.
func NewMail(c MailConfig) (*Mail, error) {
	host, text, err := net.SplitHostPort(c.Server)
	port, err2 := strconv.ParseUint(text, 10, 16)
	if errors.Join(err, err2) != nil || host == "" || port == 0 {
		return nil, errors.New("mail: want server as HOST:PORT")
	}
	if len(c.To) == 0 || len(c.To) > maxRecipients {
		return nil, fmt.Errorf("mail: want 1 to %d recipients", maxRecipients)
	}
	for _, address := range append([]string{c.From}, c.To...) {
		if _, err := netmail.ParseAddress(address); err != nil {
			return nil, errors.New("mail: an address is none")
		}
	}
	m := &Mail{c: c, host: host, options: []mail.Option{mail.WithPort(int(port)), mail.WithTimeout(webhookTimeout)}}
	if c.Roots != nil {
		m.options = append(m.options, mail.WithTLSConfig(c.Roots))
	}
	ip := net.ParseIP(host)
	switch c.TLS {
	case "", "starttls":
		m.options = append(m.options, mail.WithTLSPolicy(mail.TLSMandatory))
	case "implicit":
		m.options = append(m.options, mail.WithSSL())
	case "none":
		if host != "localhost" && (ip == nil || !ip.IsLoopback()) || c.Password != "" {
			return nil, errors.New("mail: TLS may be none on loopback alone, and without a password")
		}
		m.options = append(m.options, mail.WithTLSPolicy(mail.NoTLS))
	default:
		return nil, errors.New("mail: want tls as starttls, implicit or none")
	}
	if (c.User == "") != (c.Password == "") {
		return nil, errors.New("mail: user and password go together")
	}
	if c.User != "" {
		m.options = append(m.options, mail.WithSMTPAuth(mail.SMTPAuthPlain), mail.WithUsername(c.User), mail.WithPassword(c.Password))
	}
	return m, nil
}

// Name is "mail".
func (*Mail) Name() string { return "mail" }

// Send mails the event. Its id is the letter's, so that a reader shows one that
// was sent again once.
func (m *Mail) Send(ctx context.Context, e Event, _ time.Time) error {
	letter := mail.NewMsg()
	if err := errors.Join(letter.From(m.c.From), letter.To(m.c.To...)); err != nil {
		return errors.New("mailing an alert: an address is refused")
	}
	letter.SetMessageIDWithValue(e.ID + "@hourpass")
	letter.SetDateWithValue(e.Time)
	letter.Subject("[" + string(e.Severity) + "] Hourpass: " + plain(string(e.Kind)+" "+e.Key))
	letter.SetBodyString(mail.TypeTextPlain, e.Text+"\n\n"+strings.Join(details(e), "\n")+"\n")
	client, err := mail.NewClient(m.host, m.options...)
	if err != nil {
		return errors.New("mailing an alert: the server can't be used")
	}
	if err := client.DialAndSendWithContext(ctx, letter); err != nil {
		return fmt.Errorf("mailing an alert: %w", err)
	}
	return nil
}

// plain is s without what could begin another line of a letter's head.
func plain(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f {
			return ' '
		}
		return c
	}, s)
}
