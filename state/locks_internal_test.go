package state

import "testing"

func TestADeviceHasTheNameThatTheKernelGivesIt(t *testing.T) {
	for device, want := range map[uint64]string{0xfe01: "fe:01", 0x19: "00:19", 0x1_0000_1000_0103: "10001:10003"} {
		if got := deviceName(device); got != want {
			t.Errorf("%#x is %s, want %s", device, got, want)
		}
	}
}

func TestTheHolderOfALockIsThatOfTheFilesDevice(t *testing.T) {
	const locks = `1: FLOCK  ADVISORY  WRITE 11 00:19:131 0 EOF
2: POSIX  ADVISORY  WRITE 12 fe:01:131 0 EOF
3: FLOCK  ADVISORY  WRITE 13 fe:01:131 0 EOF
3: -> FLOCK  ADVISORY  WRITE 14 fe:01:131 0 EOF
4: FLOCK  ADVISORY  WRITE 15 fe:01:1310 0 EOF
5: FLOCK  ADVISORY  WRITE 0 fe:01:132 0 EOF
6: FLOCK  ADVISORY  WRITE 17 00:2a:133 0 EOF
short
`
	for _, tc := range []struct {
		device string
		inode  uint64
		want   int
	}{
		{"fe:01", 131, 13},
		{"00:19", 131, 11},
		{"08:01", 131, 0}, // of two others
		{"fe:01", 1310, 15},
		{"fe:01", 132, 0},  // of another namespace of processes
		{"fe:01", 133, 17}, // a file system with another number in stat(2)
		{"fe:01", 31, 0},
	} {
		if got := holder(locks, tc.device, tc.inode); got != tc.want {
			t.Errorf("the lock of %s:%d is held by %d, want %d", tc.device, tc.inode, got, tc.want)
		}
	}
}
