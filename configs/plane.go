package configs

import (
	"github.com/splitd/splitd/traffic"
)

// judgeMode refuses what the relay cannot do yet.
func (d *draft) judgeMode() {
	mode := string(d.split.Mode)
	switch d.split.Mode {
	case traffic.ModeKernel, modeUnknown:
		return
	case traffic.ModeAuto:
		mode += ", which may become proxy"
	case traffic.ModeProxy:
	}
	why := notAvailable + " in mode " + mode + "; set mode: kernel"
	for i, port := range d.split.Service.Ports {
		if port.IsRange() {
			d.ports[i].refuse("port ranges: %s", why)
		}
	}
	if d.split.Mirror.To.IsValid() {
		d.mirror.at.refuse("%s", why)
	}
}
