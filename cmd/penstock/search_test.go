package main

import "testing"

func TestComparedField(t *testing.T) {
	for lead, want := range map[string]string{
		"task=":                        "task",
		"task = ":                      "task",
		`tag.team="`:                   "tag.team",
		"a and owner~":                 "owner",
		"(licence != ":                 "licence",
		"alias in (":                   "alias",
		"alias in (champion, ":         "alias",
		"alias in (champion) and task": "",
		"a and ":                       "",
		"":                             "",
		"task=a and ":                  "",
	} {
		if field, compared := comparedField(lead); field != want || compared != (want != "") {
			t.Errorf("%q: %q, want %q", lead, field, want)
		}
	}
}
