package control

import (
	"context"
	"net/http"
	"strings"

	"github.com/splitd/splitd/control/api"
)

// What the tests may see of the inside.

const (
	MaxBody       = maxBody
	ReadersPerUID = readersPerUID
	ReadersInAll  = readersInAll
)

// As makes every request that of this peer.
func As(next http.Handler, peer Peer, owner Owner, group string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who := caller{peer: peer, mayChange: MayChange(peer, owner), group: group}
		next.ServeHTTP(w, r.WithContext(withCaller(r.Context(), who)))
	})
}

func DecodeSet(body []byte) (api.SetRequest, error) { return decodeSet(body) }
func DecodeShadow(body []byte) (api.ShadowRequest, error) {
	return decodeShadow(body)
}
func DecodeRequest(body []byte) (api.Request, error)    { return decodeRequest(body) }
func DecodeApply(body []byte) (api.ApplyRequest, error) { return decodeApply(body) }

// ChangeRoutes lists method and path of every changing route.
func ChangeRoutes() [][2]string { return pathsOf(new(handlers).changes()) }

// ReadRoutes lists method and path of every reading route, with the question
// of those that need one.
func ReadRoutes() [][2]string {
	routes := pathsOf(new(handlers).reads())
	for i := range routes {
		if strings.HasSuffix(routes[i][1], "/where") {
			routes[i][1] += "?client=192.0.2.7"
		}
	}
	return routes
}

func pathsOf(routes []route) [][2]string {
	var paths [][2]string
	for _, r := range routes {
		paths = append(paths, [2]string{r.method, r.path})
	}
	return paths
}

// Readers is the bookkeeping of the door.
type Readers struct{ d *door }

func NewReaders() Readers             { return Readers{&door{open: map[uint32]int{}}} }
func (r Readers) Enter(u uint32) bool { return r.d.enter(u) }
func (r Readers) Leave(u uint32)      { r.d.leave(u) }

// CallerOf is who the handler takes a request's sender for.
func CallerOf(ctx context.Context) (Peer, bool) {
	who, _ := callerOf(ctx)
	return who.peer, who.mayChange
}
