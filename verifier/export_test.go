package verifier

import "context"

// Pull asks once, without Run's pace.
func (r *Revocations) Pull(ctx context.Context) error { return r.pull(ctx) }
