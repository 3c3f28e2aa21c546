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
func enterCommand(pid int, uidMap string) string {
	// user_namespaces(7): "ID-inside ID-outside length".
	fields := strings.Fields(uidMap)
	if len(fields) == 3 && fields[0] == "0" && fields[1] == "0" && fields[2] != "1" {
		return fmt.Sprintf("sudo nsenter -t %d -n", pid)
	}
	return fmt.Sprintf("nsenter -t %d -U -n --preserve-credentials", pid)
}

func readUIDMap() string {
	text, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return ""
	}
	return string(text)
}

func (n *network) hints(c *cast) []string {
	hints := []string{
		"  export SPLITD_CONTROL_SOCKET=" + c.socket,
		"  " + c.splitctlPath + " status          # and: show, history, plan, set 10%, undo, off",
	}
	uidMap := readUIDMap()
	for _, room := range []struct {
		name, try string
		host      *host
	}{
		{"the old MX", "nft list ruleset; curl http://127.0.0.1:9480/", c.mxs[0]},
		{"the new MX", "ip rule; ip route show table 5300", c.mxs[1]},
		{"the clients", "", c.clients},
	} {
		hint := fmt.Sprintf("  %-52s # %s", enterCommand(room.host.cmd.Process.Pid, uidMap), room.name)
		if room.try != "" {
			hint += ": " + room.try
		}
		hints = append(hints, hint)
	}
	return append(hints, "  files and logs: "+c.dir)
}

func (l *loopback) hints(c *cast) []string {
	return []string{
		"  export SPLITD_CONTROL_SOCKET=" + c.socket,
		"  " + c.splitctlPath + " status          # and: show, history, plan, set 10%, undo, off",
		fmt.Sprintf("  status page: http://%s/", l.http),
		"  files and logs: " + c.dir,
	}
}
