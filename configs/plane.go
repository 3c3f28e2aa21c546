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
	refuse := func(at spot, what string) {
		at.refuse("%s: %s in mode %s; set mode: kernel", what, notAvailable, mode)
	}
	for i, port := range d.split.Service.Ports {
		if port.IsRange() {
			refuse(d.ports[i], "port ranges")
		}
	}
	if d.split.Mirror.To.IsValid() {
		refuse(d.mirror.at, "mirror")
	}
}
