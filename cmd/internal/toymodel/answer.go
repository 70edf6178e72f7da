package toymodel

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"unicode"
)

// An answer is what the model says, cut into pieces of one word that are its
// tokens: put together they are the text.
type answer struct {
	pieces []string
	cut    bool // The caller's limit ended it.
}

func (a answer) text() string { return strings.Join(a.pieces, "") }

// finish is why the answer ended, as chat and completions call it.
func (a answer) finish() string {
	if a.cut {
		return "length"
	}
	return "stop"
}

// faq is all that the model has read. The first entry with a word of the
// question's answers it.
var faq = []struct {
	words  []string
	answer string
}{
	{[]string{"holiday", "holidays", "vacation", "leave"}, "You have 30 days of holiday a year. Ask your manager first, then enter the days in the HR portal; up to five may move into the next year."},
	{[]string{"expense", "expenses", "receipt", "travel"}, "Photograph the receipt, enter it in the expense portal within 30 days, and the money is there with your next salary."},
	{[]string{"vpn", "remote", "home"}, "Start the VPN client, choose the nearest site and log in as you do every morning. Some models answer only from inside the VPN."},
	{[]string{"password", "login", "locked"}, "You can set a new password yourself on the login page. After five wrong ones the account rests for 15 minutes."},
	{[]string{"token", "tokens", "key", "keys"}, "A machine key and your login together get you a token for one hour. Neither of them opens anything alone."},
	{[]string{"thanks", "thank"}, "You are welcome! Is there anything else I can look up for you?"},
	{[]string{"hello", "hi", "hey"}, "Hello! I am the help desk's toy model. Ask me about holidays, expenses, the VPN, passwords or tokens."},
}

// counting makes answers of any length, for whoever wants to see a budget end.
var counting = regexp.MustCompile(`(?i)\bcount to (\d{1,4})\b`)

// respond answers a question with at most limit tokens. Nil is no limit.
func respond(question text, limit *int) (answer, error) {
	if limit != nil && *limit < 1 {
		return answer{}, refuse(http.StatusBadRequest, "integer_below_min_value", "The token limit must be at least 1.")
	}
	var a answer
	for i, word := range strings.Fields(say(string(question))) {
		if i > 0 {
			word = " " + word
		}
		a.pieces = append(a.pieces, word)
	}
	if limit != nil && *limit < len(a.pieces) {
		a.pieces, a.cut = a.pieces[:*limit], true
	}
	return a, nil
}

func say(question string) string {
	if to := counting.FindStringSubmatch(question); to != nil {
		n, _ := strconv.Atoi(to[1]) // Four digits.
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "%d ", i+1)
		}
		return b.String() + "done."
	}
	asked := map[string]bool{}
	for _, word := range strings.FieldsFunc(strings.ToLower(question), func(r rune) bool { return !unicode.IsLetter(r) }) {
		asked[word] = true
	}
	for _, entry := range faq {
		for _, word := range entry.words {
			if asked[word] {
				return entry.answer
			}
		}
	}
	return fmt.Sprintf("You asked: “%s” I am a toy and have read only one page. Ask me about holidays, expenses, the VPN, passwords or tokens, or tell me to count to 20.", shorten(question, 20))
}

// shorten returns the first so many words.
func shorten(s string, words int) string {
	all := strings.Fields(s)
	if len(all) <= words {
		return strings.Join(all, " ")
	}
	return strings.Join(all[:words], " ") + " …"
}
