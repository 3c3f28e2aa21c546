package configs

import "time"

// notAvailable is what every key of a part that is not built yet says to all
// but its default.
const notAvailable = "not available in this version"

func (v value) onlyDefault(is bool, what string) {
	if !is {
		v.refuse("%s: leave it out or write %s", notAvailable, what)
	}
}

func (t *table) laterText(key, only string) {
	if v, ok := t.take(key); ok {
		if s, ok := v.scalar("text"); ok {
			v.onlyDefault(s == only, names([]string{only}))
		}
	}
}

func (t *table) laterNumber(key, only string) {
	if v, ok := t.take(key); ok {
		if s, ok := v.scalar("a number"); ok {
			v.onlyDefault(s == only, only)
		}
	}
}

func (t *table) laterDuration(key string, only time.Duration, text string) {
	if v, ok := t.take(key); ok {
		if d, ok := v.duration(); ok {
			v.onlyDefault(d == only, text)
		}
	}
}

func (t *table) laterWeight(key, only string) {
	if v, ok := t.take(key); ok {
		if w, ok := v.weight(); ok {
			v.onlyDefault(w.String() == only, only)
		}
	}
}

func (t *table) laterList(key string) {
	if v, ok := t.take(key); ok {
		if items, ok := v.list(); ok {
			v.onlyDefault(len(items) == 0, "[]")
		}
	}
}

// inside reads a mapping within the table, if it is given.
func (t *table) inside(key string, read func(*table)) {
	v, ok := t.take(key)
	if !ok {
		return
	}
	if inner, ok := v.table(); ok {
		read(inner)
		inner.close()
	}
}

// laterParts reads what a split may say about parts that are not built yet.
func (t *table) laterParts() {
	t.laterText("verify", "")
	t.inside("ramp", func(t *table) {
		t.laterText("steps", "exponential")
		t.laterWeight("start", "0.5%")
		t.laterNumber("factor", "2")
		t.laterDuration("hold", 10*time.Minute, "10m")
		t.laterNumber("min_flows", "3000")
		t.laterList("guards")
		t.laterList("notify")
	})
}
