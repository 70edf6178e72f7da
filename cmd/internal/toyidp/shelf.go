package toyidp

import "time"

// shelf keeps things under random ids until they expire, and never more than
// max of them: a flood costs the oldest their place, not us our memory. The
// caller holds the lock.
type shelf[T any] struct {
	max   int
	items map[string]kept[T]
}

type kept[T any] struct {
	item  T
	until time.Time
}

func newShelf[T any](max int) shelf[T] { return shelf[T]{max: max, items: map[string]kept[T]{}} }

// put keeps item under id until the given time. A thing already there is replaced.
func (s shelf[T]) put(id string, item T, until time.Time) {
	if _, there := s.items[id]; !there && len(s.items) >= s.max {
		s.makeRoom()
	}
	s.items[id] = kept[T]{item: item, until: until}
}

// get returns what is kept under id, and until when, if that has not passed.
func (s shelf[T]) get(id string) (item T, until time.Time, ok bool) {
	k, ok := s.items[id]
	if !ok || !time.Now().Before(k.until) {
		delete(s.items, id)
		return item, until, false
	}
	return k.item, k.until, true
}

func (s shelf[T]) drop(id string) { delete(s.items, id) }

// makeRoom drops what has expired, and if nothing has, what would have first.
func (s shelf[T]) makeRoom() {
	now, first := time.Now(), ""
	for id, k := range s.items {
		if !now.Before(k.until) {
			delete(s.items, id)
		} else if first == "" || k.until.Before(s.items[first].until) {
			first = id
		}
	}
	if len(s.items) >= s.max {
		delete(s.items, first)
	}
}
