package schema

// merge walks a and b, both sorted, by key. It calls f with the index of an
// element in a and in b, or -1 where one of them has no such key.
func (t *Type) merge(a, b Datum, f func(i, j int)) {
	s := t.stride()
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		c := 0
		switch {
		case i == len(a):
			c = 1
		case j == len(b):
			c = -1
		default:
			c = t.Key.Atomic.compare(a[i], b[j])
		}
		switch {
		case c < 0:
			f(i, -1)
			i += s
		case c > 0:
			f(-1, j)
			j += s
		default:
			f(i, j)
			i += s
			j += s
		}
	}
}

// Union returns a with those elements of b whose keys are not in a.
func (t *Type) Union(a, b Datum) Datum {
	if len(b) == 0 {
		return a
	}
	s := t.stride()
	out := make(Datum, 0, len(a)+len(b))
	t.merge(a, b, func(i, j int) {
		if i >= 0 {
			out = append(out, a[i:i+s]...)
		} else {
			out = append(out, b[j:j+s]...)
		}
	})
	return out
}

// Subtract returns a without the elements of b. A map's element goes only if
// its value is the same, unless b holds only keys.
func (t *Type) Subtract(a, b Datum, onlyKeys bool) Datum {
	keys := t
	if onlyKeys {
		keys = &Type{Key: t.Key, Max: Unlimited}
	}
	s := t.stride()
	out := make(Datum, 0, len(a))
	for i := 0; i < len(a); i += s {
		at, found := keys.find(b, a[i])
		if found && (s == 1 || onlyKeys || b[at+1] == a[i+1]) {
			continue
		}
		out = append(out, a[i:i+s]...)
	}
	return out
}

// Diff returns what turns a into b, as an update2 notification and a log record
// hold it (ovsdb-server(7) 4.1.14): for a column of at most one element the new
// value, else the elements that are in one of both only, and of a map those
// with another value as they are in b.
func (t *Type) Diff(a, b Datum) Datum {
	if t.Max == 1 {
		return b
	}
	s := t.stride()
	var out Datum
	t.merge(a, b, func(i, j int) {
		switch {
		case i < 0:
			out = append(out, b[j:j+s]...)
		case j < 0:
			out = append(out, a[i:i+s]...)
		case s == 2 && a[i+1] != b[j+1]:
			out = append(out, b[j:j+s]...)
		}
	})
	return out
}

// Apply returns what a becomes by diff, the reverse of Diff.
func (t *Type) Apply(a, diff Datum) Datum {
	if t.Max == 1 {
		return diff
	}
	s := t.stride()
	var out Datum
	t.merge(a, diff, func(i, j int) {
		switch {
		case i < 0:
			out = append(out, diff[j:j+s]...)
		case j < 0:
			out = append(out, a[i:i+s]...)
		case s == 2 && a[i+1] != diff[j+1]:
			out = append(out, diff[j:j+s]...)
		}
	})
	return out
}

// Changed calls gone for each atom, of the keys or of the values, that is in a
// but not in b, and come for the reverse. Atoms at the same place that are the
// same in both are passed over, so this is cheap for references.
func (t *Type) Changed(a, b Datum, value bool, gone, come func(Atom)) {
	at := 0
	if value {
		at = 1
	}
	t.merge(a, b, func(i, j int) {
		if i >= 0 && j >= 0 && a[i+at] == b[j+at] {
			return
		}
		if i >= 0 {
			gone(a[i+at])
		}
		if j >= 0 {
			come(b[j+at])
		}
	})
}

// Filter returns the elements of d for which keep is true.
func (t *Type) Filter(d Datum, keep func(elem Datum) bool) Datum {
	s := t.stride()
	out := make(Datum, 0, len(d))
	for i := 0; i < len(d); i += s {
		if keep(d[i : i+s]) {
			out = append(out, d[i:i+s]...)
		}
	}
	return out
}
