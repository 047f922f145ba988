package server

import (
	"slices"

	"millrace/control/ovsdb/jsonval"
	"millrace/control/ovsdb/schema"
)

// A waiter is a session that asked for a lock and has not unlocked it.
type waiter struct {
	of   *session
	name string
}

// A lock is held by the first of its queue. Who is stolen from leaves it.
type lock struct {
	queue []*waiter
}

// holds reports whether s holds the lock of that name.
func (h *hub) holds(s *session, name string) bool {
	l := h.locks[name]
	return l != nil && len(l.queue) > 0 && l.queue[0].of == s
}

// lockName reads the parameter of a request about locks.
func (h *hub) lockName(r *request) (string, bool) {
	if len(r.params) != 1 || r.params[0].Kind != jsonval.String || !schema.IsID(r.params[0].Str) {
		h.refuse(r, schema.Errorf(schema.Syntax, "%s request params must be <id>", r.method))
		return "", false
	}
	return r.params[0].Str, true
}

// lock is RFC 7047 4.1.8: lock and steal.
func (h *hub) lock(r *request) {
	name, ok := h.lockName(r)
	if !ok {
		return
	}
	if r.from.waiters[name] != nil {
		h.refuse(r, schema.Errorf(schema.Syntax, "must issue unlock before new %s", r.method))
		return
	}
	if len(r.from.waiters) >= maxWaiting {
		h.refuse(r, schema.Errorf("resources exhausted", "too many locks"))
		return
	}
	l := h.locks[name]
	if l == nil {
		l = &lock{}
		h.locks[name] = l
	}
	w := &waiter{r.from, name}
	r.from.waiters[name] = w
	if r.method == "steal" {
		if len(l.queue) > 0 {
			h.notify(l.queue[0].of, "stolen", lockParams(name))
			l.queue = l.queue[1:]
		}
		l.queue = slices.Insert(l.queue, 0, w)
	} else {
		l.queue = append(l.queue, w)
	}
	h.answer(r, jsonval.OfObject(jsonval.OfString("locked"), jsonval.OfBool(l.queue[0] == w)).Append(nil))
}

func lockParams(name string) []byte { return jsonval.OfArray(jsonval.OfString(name)).Append(nil) }

// unlock is RFC 7047 4.1.8.
func (h *hub) unlock(r *request) {
	name, ok := h.lockName(r)
	if !ok {
		return
	}
	w := r.from.waiters[name]
	if w == nil {
		h.refuse(r, schema.Errorf(schema.Syntax, "unlock without lock or steal"))
		return
	}
	h.release(w)
	h.answer(r, []byte("{}"))
}

// release ends w's claim; the next in the queue learns that it holds the lock.
func (h *hub) release(w *waiter) {
	delete(w.of.waiters, w.name)
	l := h.locks[w.name]
	if l == nil {
		return
	}
	held := len(l.queue) > 0 && l.queue[0] == w
	l.queue = slices.DeleteFunc(l.queue, func(o *waiter) bool { return o == w })
	if len(l.queue) == 0 {
		delete(h.locks, w.name)
	} else if held {
		h.notify(l.queue[0].of, "locked", lockParams(w.name))
	}
}
