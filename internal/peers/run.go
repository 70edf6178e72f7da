package peers

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// RunNode runs a script of the folder internal/peers/node (where import finds
// the pinned modules) with the pinned Node, and returns what it printed on its
// standard output. A script that exits with anything but 0, or takes a minute,
// fails the test. It sees env and no other variable of the test's.
//
//   - openai-sdk.mjs is OpenAI's SDK as a client of OPENAI_BASE_URL with
//     OPENAI_API_KEY and MODEL (also PROMPT, MAX_RETRIES). It prints
//     {models: [id], chat: {model, content, usage, request_id},
//     stream: {content, chunks, usage}}; each of the three is
//     {error: {status, code, message, type}} if the API refused it.
//   - jose-verify.mjs verifies TOKEN of ISSUER for AUDIENCE under the keys at
//     JWKS_URL as an at+jwt. It prints {header, payload}, or
//     {error: {code, message, claim}} if jose refused it.
//   - openid-client.mjs and oauth4webapi.mjs are those clients of the
//     authorization server ISSUER. They walk its grants in two runs, between
//     which the test logs in for them; their first lines say what they take.
//     They print {step: answer}, where a refused step is {error, status, …}.
func RunNode(t testing.TB, script string, env map[string]string, args ...string) string {
	t.Helper()
	binary, dir := node(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, append([]string{script}, args...)...)
	cmd.Dir, cmd.Env = dir, nodeEnv(env)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("running %s: %v\n%s%s", script, errors.Join(err, context.Cause(ctx)), &stdout, &stderr)
	}
	return stdout.String()
}
