//go:build e2ereal

package real

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// secrets are the forms in which a private key could stand in a text: the lines of its
// file, and its numbers as bytes in hex, base64 and as Go prints them, and in decimal.
func secrets(t testing.TB, p *keyPair) map[string]string {
	t.Helper()
	text, err := os.ReadFile(p.key)
	if err != nil {
		t.Fatal(err)
	}
	forms := map[string]string{}
	for i, line := range strings.Split(string(text), "\n") {
		if len(line) >= 16 && !strings.HasPrefix(line, "-----") {
			forms[fmt.Sprintf("line %d of its file", i+1)] = line
		}
	}
	for i, number := range numbers(t, p.private) {
		raw := number.Bytes()
		for form, text := range map[string]string{
			"hex": hex.EncodeToString(raw), "HEX": strings.ToUpper(hex.EncodeToString(raw)), "decimal": number.String(),
			"base64": base64.StdEncoding.EncodeToString(raw)[:len(raw)], "URL base64": base64.URLEncoding.EncodeToString(raw)[:len(raw)],
			"bytes": strings.Trim(fmt.Sprintf("%d", raw), "[]"), "raw": string(raw),
		} {
			forms[fmt.Sprintf("its number %d in %s", i, form)] = text
		}
	}
	return forms
}

// numbers are those of a private key that nobody else may know.
func numbers(t testing.TB, key crypto.Signer) []*big.Int {
	t.Helper()
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		raw, err := key.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		return []*big.Int{new(big.Int).SetBytes(raw)}
	case *rsa.PrivateKey:
		return append([]*big.Int{key.D}, key.Primes...)
	}
	t.Fatalf("a key of type %T", key)
	return nil
}

// keepsSecrets checks that no private key stands in what the daemon has said and keeps,
// nor in what a split's report says in each of its forms, with all samples.
func (l *lab) keepsSecrets(a *authority, splits ...string) {
	l.t.Helper()
	texts := map[string]string{"the log": l.splitting.said.String()}
	for _, split := range splits {
		for _, form := range []string{"table", "json", "yaml", "markdown", "html", "junit"} {
			texts["the report of "+split+" as "+form] = l.ok("report", split, "-o", form)
		}
	}
	for _, command := range []string{"status -o json", "history " + splits[0] + " -o json", "plan"} {
		texts[command] = l.ok(strings.Fields(command)...)
	}
	files := 0
	if err := filepath.WalkDir(filepath.Dir(l.splitting.config), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		texts[path] = string(text)
		files++
		return err
	}); err != nil {
		l.t.Fatal(err)
	}
	if files < 2 { // the configuration, and what is in the state directory
		l.t.Errorf("only %d files of the daemon were looked through", files)
	}
	for _, p := range a.issued {
		forms := secrets(l.t, p)
		for where, text := range texts {
			if found := formsIn(text, forms); len(found) > 0 {
				l.t.Errorf("the private key %s stands in %s: %q", p.name, where, found)
			}
		}
	}
}

// formsIn are the forms of a key in which it stands in a text.
func formsIn(text string, forms map[string]string) []string {
	var found []string
	for form, secret := range forms {
		if strings.Contains(text, secret) {
			found = append(found, form)
		}
	}
	return found
}

func TestAKeyIsFoundInATextInWhateverFormItIs(t *testing.T) {
	a := newAuthority(t, t.TempDir())
	for _, kind := range []string{"ECDSA", "RSA"} {
		p := a.issue(kind, kind, lasting, "host.example")
		forms := secrets(t, p)
		file, err := os.ReadFile(p.key)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(file), "\n")
		raw := numbers(t, p.private)[0].Bytes()
		for what, text := range map[string]string{
			"its file": string(file), "a line of it": "error: " + lines[1], "as Go prints it": fmt.Sprintf("%+v", p.private), "in JSON": `{"d":"` + base64.RawURLEncoding.EncodeToString(raw) + `"}`,
			"in hex": fmt.Sprintf("key=%x.", raw), "in bytes": fmt.Sprintf("%d", raw), "in memory": "core" + string(raw),
		} {
			if len(formsIn(text, forms)) == 0 {
				t.Errorf("a key of kind %s is overlooked %s", kind, what)
			}
		}
		certificate, err := os.ReadFile(p.cert)
		if err != nil {
			t.Fatal(err)
		}
		if found := formsIn(string(certificate), forms); len(found) > 0 {
			t.Errorf("a key of kind %s stands in its certificate: %q", kind, found)
		}
	}
}

// leavesNoCore checks that neither the daemon nor a process of its own writes its memory,
// in which keys are, into a file when it dies.
func (l *lab) leavesNoCore() {
	l.t.Helper()
	family := familyOf(l.t, l.splitting.cmd.Process.Pid)
	if len(family) < 2 {
		l.t.Errorf("splitd is processes %v, want the shadow's as well", family)
	}
	for _, pid := range family {
		limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
		if err != nil {
			l.t.Fatal(err)
		}
		if soft, hard := coreLimits(string(limits)); soft != "0" || hard != "0" {
			command, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			l.t.Errorf("process %d of splitd, %q, may leave a core of %s, or %s if it wants, want 0", pid, command, soft, hard)
		}
	}
}

// coreLimits are the soft and the hard limit of core files in /proc/PID/limits.
func coreLimits(limits string) (soft, hard string) {
	for line := range strings.Lines(limits) {
		if rest, is := strings.CutPrefix(line, "Max core file size"); is {
			fields := strings.Fields(rest)
			return fields[0], fields[1]
		}
	}
	return "", ""
}

// familyOf is a process and all that it has started, and these.
func familyOf(t testing.TB, pid int) []int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		t.Fatal(err)
	}
	children := map[string][]int{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		_, parent, _ := strings.Cut(string(text), "\nPPid:\t")
		parent, _, _ = strings.Cut(parent, "\n")
		child, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			t.Fatal(err)
		}
		children[parent] = append(children[parent], child)
	}
	family := []int{pid}
	for i := 0; i < len(family); i++ {
		family = append(family, children[strconv.Itoa(family[i])]...)
	}
	return family
}
