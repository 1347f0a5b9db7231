package api

import (
	"fmt"
	"time"
)

// Time is a point in time with microsecond precision: RFC 3339 in JSON, int64 microseconds since 1970 in the store.
// The zero value means "not set".
type Time int64

// TimeOf cuts a time.Time to microseconds.
func TimeOf(t time.Time) Time {
	if t.IsZero() {
		return 0
	}
	return Time(t.UnixMicro())
}

// Std is the time.Time in UTC; zero stays zero.
func (t Time) Std() time.Time {
	if t == 0 {
		return time.Time{}
	}
	return time.UnixMicro(int64(t)).UTC()
}

// IsZero reports whether the time is not set.
func (t Time) IsZero() bool { return t == 0 }

// MarshalText writes RFC 3339 with microseconds in UTC.
func (t Time) MarshalText() ([]byte, error) {
	if t == 0 {
		return nil, nil
	}
	return t.Std().AppendFormat(nil, "2006-01-02T15:04:05.000000Z"), nil
}

// UnmarshalText reads RFC 3339.
func (t *Time) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*t = 0
		return nil
	}
	parsed, err := time.Parse(time.RFC3339Nano, string(b))
	if err != nil {
		return fmt.Errorf("time %q is not RFC 3339", clip(string(b)))
	}
	*t = TimeOf(parsed)
	return nil
}
