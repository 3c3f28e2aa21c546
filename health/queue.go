package health

import "container/heap"

// queue holds the probes that wait for their next check, the earliest first.
type queue []*probe

var _ heap.Interface = (*queue)(nil)

func (q *queue) add(p *probe) { heap.Push(q, p) }

// drop takes a probe out if it is in.
func (q *queue) drop(p *probe) {
	if p.index < len(*q) && (*q)[p.index] == p {
		heap.Remove(q, p.index)
	}
}

// Len implements heap.Interface, as do the others.
func (q *queue) Len() int { return len(*q) }

// Less says whose check is due first.
func (q *queue) Less(i, j int) bool { return (*q)[i].due.Before((*q)[j].due) }

// Swap exchanges two places.
func (q *queue) Swap(i, j int) {
	(*q)[i], (*q)[j] = (*q)[j], (*q)[i]
	(*q)[i].index, (*q)[j].index = i, j
}

// Push appends a probe.
func (q *queue) Push(x any) {
	p, _ := x.(*probe)
	p.index = len(*q)
	*q = append(*q, p)
}

// Pop takes the last one off.
func (q *queue) Pop() any {
	old := *q
	p := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return p
}
