package api

import (
	"cmp"
	"regexp"
	"strconv"
	"strings"
)

// Label is a semantic version that names a version beside its number: "1.2.0", "2.0.0-rc.1".
type Label struct {
	Major, Minor, Patch int64
	Pre                 string // of a pre-release, without the hyphen
}

var labelRule = regexp.MustCompile(`^(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})(?:-((?:0|[1-9][0-9]{0,8}|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)(?:\.(?:0|[1-9][0-9]{0,8}|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*))*))?$`)

// labelBytesMax bounds a label.
const labelBytesMax = 128

// ParseLabel reads a semantic version. Build metadata ("+…") is not taken: two labels that differ only there would be equal.
func ParseLabel(text string) (Label, error) {
	m := labelRule.FindStringSubmatch(text)
	if m == nil || len(text) > labelBytesMax {
		return Label{}, Fail(CodeBadName, "", "label %q is not a semantic version", clip(text)).
			WithCure("Write it as MAJOR.MINOR.PATCH, such as 1.2.0 or 2.0.0-rc.1, without v before it.")
	}
	l := Label{Pre: m[4]}
	for i, part := range []*int64{&l.Major, &l.Minor, &l.Patch} {
		*part, _ = strconv.ParseInt(m[i+1], 10, 64) // at most nine digits, as the rule says
	}
	return l, nil
}

// String writes the label.
func (l Label) String() string {
	text := strconv.FormatInt(l.Major, 10) + "." + strconv.FormatInt(l.Minor, 10) + "." + strconv.FormatInt(l.Patch, 10)
	if l.Pre != "" {
		text += "-" + l.Pre
	}
	return text
}

// Compare orders labels without their pre-releases.
func (l Label) Compare(other Label) int {
	return cmp.Or(cmp.Compare(l.Major, other.Major), cmp.Compare(l.Minor, other.Minor), cmp.Compare(l.Patch, other.Patch))
}

// LabelRange is a span of labels: from the first one up to, but without, the other. Pre-releases are in none.
type LabelRange struct{ From, Before Label }

var rangeRule = regexp.MustCompile(`^([\^~]?)(0|[1-9][0-9]{0,8})(?:\.(0|[1-9][0-9]{0,8}|x))?(?:\.(0|[1-9][0-9]{0,8}|x))?$`)

// ParseLabelRange reads a range: ^1.2 is from 1.2.0 to before 2.0.0 (^0.2 to before 0.3.0), ~1.2 to before 1.3.0, 1.x is as
// ^1 and 1.2.x as ~1.2.
func ParseLabelRange(text string) (LabelRange, error) {
	bad := func() (LabelRange, error) {
		return LabelRange{}, Fail(CodeBadName, "", "%q is not a range of labels", clip(text)).WithCure("Write ^1.2, ~1.2, 1.x or 1.2.x.")
	}
	m := rangeRule.FindStringSubmatch(text)
	if m == nil {
		return bad()
	}
	given := 0 // numbers, before the first x or the end
	var parts [3]int64
	for ; given < 3 && m[given+2] != "" && m[given+2] != "x"; given++ {
		parts[given], _ = strconv.ParseInt(m[given+2], 10, 64) // at most nine digits, as the rule says
	}
	open := strings.HasSuffix(text, "x")
	if given < 2 && m[4] != "" && m[4] != "x" || m[1] == "" && !open || m[1] != "" && open {
		return bad()
	}
	r := LabelRange{From: Label{Major: parts[0], Minor: parts[1], Patch: parts[2]}}
	switch {
	case given == 1, m[1] == "^" && parts[0] > 0:
		r.Before = Label{Major: parts[0] + 1}
	case m[1] != "^", given == 2, parts[1] > 0:
		r.Before = Label{Major: parts[0], Minor: parts[1] + 1}
	default: // ^0.0.3
		r.Before = Label{Patch: parts[2] + 1}
	}
	return r, nil
}

// Holds reports whether a label is in the range.
func (r LabelRange) Holds(l Label) bool {
	return l.Pre == "" && l.Compare(r.From) >= 0 && l.Compare(r.Before) < 0
}

// LooksLikeLabel tells a label or a range from a number, by its dots or its first character.
func LooksLikeLabel(text string) bool {
	return text != "" && (text[0] == '^' || text[0] == '~' || text[0] >= '0' && text[0] <= '9' && strings.Contains(text, "."))
}

// CheckLabelRef reports a text after "@" that is neither a label nor a range.
func CheckLabelRef(text string) error {
	if _, err := ParseLabel(text); err == nil {
		return nil
	}
	_, err := ParseLabelRange(text)
	return err
}
