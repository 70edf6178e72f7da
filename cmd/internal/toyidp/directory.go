package toyidp

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"sync"
)

// errCredentials says nothing of whether it was the name, the password or a
// leaver, so that nobody learns who works here.
var errCredentials = errors.New("that user name and password do not go together")

// errLeaver refuses what a user had under way when they were disabled.
var errLeaver = errors.New("the user is unknown or disabled")

// directory is who may log in, and who no longer may.
type directory struct {
	byName    map[string]User
	bySubject map[string]User

	mu      sync.RWMutex
	leavers map[string]bool // By subject.
}

func newDirectory(users []User) *directory {
	d := &directory{byName: map[string]User{}, bySubject: map[string]User{}, leavers: map[string]bool{}}
	for _, u := range users {
		d.byName[u.Username] = u
		d.bySubject[u.Subject] = u
	}
	return d
}

// authenticate returns the user whom the credentials name, or errCredentials.
// It takes as long for a name it does not know.
func (d *directory) authenticate(username, password string) (User, error) {
	u, known := d.byName[username]
	right := equal(u.Password, password)
	if _, err := d.live(u.Subject); !known || !right || err != nil {
		return User{}, errCredentials
	}
	return u, nil
}

// live returns the user with that subject, unless they are a leaver.
func (d *directory) live(subject string) (User, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	u, known := d.bySubject[subject]
	if !known || d.leavers[subject] {
		return User{}, errLeaver
	}
	return u, nil
}

func (d *directory) disable(username string) bool {
	u, known := d.byName[username]
	if !known {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.leavers[u.Subject] = true
	return true
}

// equal compares two secrets in a time that tells neither their content nor
// their length.
func equal(a, b string) bool {
	x, y := sha256.Sum256([]byte(a)), sha256.Sum256([]byte(b))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}
