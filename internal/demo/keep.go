package demo

import (
	"context"
	"fmt"
	"os"
	"strings"
)

// keptRate is the pace of the mails while everything is kept running.
const keptRate = 20

// keep says how to look around and waits for the end of ctx.
func (p *performance) keep(ctx context.Context) {
	p.show.heading("Everything keeps running, with " + fmt.Sprint(keptRate) + " mails a second. In another terminal:")
	for _, hint := range p.stage.hints(p.cast) {
		p.show.line("%s", hint)
	}
	p.show.line("\nCtrl-C ends and removes it all.")
	<-ctx.Done()
}

// enterCommand is the command that enters the namespace of a process from
// another terminal of the same user: through the user namespace when the demo
// made one.
func enterCommand(pid int, uidMap, sudoUser string) string {
	// user_namespaces(7): "ID-inside ID-outside length".
	fields := strings.Fields(uidMap)
	if len(fields) == 3 && fields[2] == "1" {
		return fmt.Sprintf("nsenter -t %d -U -n --preserve-credentials", pid)
	}
	return asBefore(sudoUser) + fmt.Sprintf("nsenter -t %d -n", pid)
}

// asBefore begins a command for somebody who ran the demo with sudo.
func asBefore(sudoUser string) string {
	if sudoUser == "" {
		return ""
	}
	return "sudo "
}

func operatorHints(c *cast, sudoUser string) []string {
	return []string{
		fmt.Sprintf("  %s%s --socket %s status", asBefore(sudoUser), c.splitctlPath, c.socket),
		"      and instead of status: show, history, plan, set 10%, undo, off",
	}
}

func (n *network) hints(c *cast) []string {
	sudoUser := os.Getenv("SUDO_USER")
	hints := operatorHints(c, sudoUser)
	uidMap, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return hints
	}
	for _, room := range []struct {
		name, try string
		host      *host
	}{
		{"the old MX", ": nft list ruleset; curl http://127.0.0.1:9480/metrics", c.mxs[0]},
		{"the new MX", ": ip rule; ip route show table 5300", c.mxs[1]},
		{"the clients", "", c.clients},
	} {
		enter := enterCommand(room.host.cmd.Process.Pid, string(uidMap), sudoUser)
		hints = append(hints, fmt.Sprintf("  %s   # %s%s", enter, room.name, room.try))
	}
	return append(hints, "  configurations and logs: "+c.dir)
}

func (l *loopback) hints(c *cast) []string {
	return append(operatorHints(c, os.Getenv("SUDO_USER")),
		fmt.Sprintf("  curl http://%s/metrics", l.http),
		"  configurations and logs: "+c.dir)
}
