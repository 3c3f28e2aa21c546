package netfilter

import (
	"strings"
	"testing"

	"github.com/splitd/splitd/traffic"
)

// receiverPaths are the cases whose texts are kept in testdata/receiver. The
// programs themselves read them in e2e/real.
func receiverPaths() map[string][]traffic.ReturnPath {
	smtp := traffic.Port{Number: 25, Transport: traffic.TCP}
	return map[string][]traffic.ReturnPath{
		"address": byAddress(),
		"mark":    byMark(smtp),
		"tunnel": {
			{Name: "wire", Device: "wg0", Match: traffic.MatchMark, Ports: []traffic.Port{smtp}},
			{Name: "kept", Device: "tun0", Match: traffic.MatchAddress, Address: addr("10.8.0.2")},
			{Name: "link", Via: addr("10.0.0.1"), Device: "eth0", Match: traffic.MatchAddress, Address: addr("10.0.0.200")},
		},
	}
}

func TestTheReceivingSideIsWrittenInTheWordsOfOtherPrograms(t *testing.T) {
	for name, paths := range receiverPaths() {
		for _, form := range ReceiverForms() {
			t.Run(name+"/"+string(form), func(t *testing.T) {
				text, err := Receiver(paths, labSettings, form)
				if err != nil {
					t.Fatal(err)
				}
				golden(t, "receiver/"+name+"."+string(form), text)
				for _, setting := range []string{"ManageForeignRoutingPolicyRules=no", "ManageForeignRoutes=no"} {
					if !strings.Contains(text, setting) {
						t.Errorf("%s is not told", setting)
					}
				}
			})
		}
	}
}

func TestAReceiverThatCannotWorkIsRefused(t *testing.T) {
	if text, err := Receiver([]traffic.ReturnPath{{Name: "x", Match: traffic.MatchMark}}, labSettings, ReceiverNft); err == nil {
		t.Errorf("without a device it is written as\n%s", text)
	}
	if text, err := Receiver(byAddress(), labSettings, "netplan"); err == nil {
		t.Errorf("in a form that nobody knows it is written as\n%s", text)
	}
}
