package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

const (
	// behaviour names the annotation that says what becomes of a pod.
	behaviour = "pod-life"
	// stopping says for how many seconds a pod goes on after it was told to stop.
	stopping = "pod-life-stop"
	gpu      = "gpu-vendor.example/example-gpu"
)

// The nodes; the first is the one that upstream's tests know.
var nodes = []string{"k8s-default-pool-abcd-1234", "k8s-default-pool-abcd-5678"}

// player plays the scheduler and both kubelets: it binds pods to nodes, writes their statuses, and ends them.
//
// What becomes of a pod is in its annotation `pod-life`:
//
//	(none)       running and ready 100 ms after it was bound
//	slow=N       the same after N seconds
//	image-pull   its image cannot be pulled
//	crash-loop   its container ends at once, again and again
//	evict        it is evicted before it runs
//	exit         its container ends well
//	stuck        its volume is never mounted
//	not-ready    it runs, and its readiness probe fails
//	config-error its container wants a secret that is not there
//
// image-pull, crash-loop and config-error with =N pass after N seconds.
type player struct {
	client kubernetes.Interface
	mutex  sync.Mutex
	// begun has the pods whose life is being played, ended those whose end is.
	begun, ended map[types.UID]bool
}

func kubelet(ctx context.Context, config *rest.Config, _ []string) error {
	p := &player{client: kubernetes.NewForConfigOrDie(config), begun: map[types.UID]bool{}, ended: map[types.UID]bool{}}
	for i, name := range nodes {
		p.until(ctx, func() error { return p.makeNode(ctx, name, i == 0) })
	}
	// What went wrong (the API was away) is tried again when the informer shows every pod anew.
	factory := informers.NewSharedInformerFactory(p.client, 2*time.Second)
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { p.see(ctx, object.(*corev1.Pod)) },
		UpdateFunc: func(_, object any) { p.see(ctx, object.(*corev1.Pod)) },
	}
	if _, err := factory.Core().V1().Pods().Informer().AddEventHandler(handler); err != nil {
		return err
	}
	factory.Start(ctx.Done())
	<-ctx.Done()
	return nil
}

// until repeats what the API may not answer yet.
func (p *player) until(ctx context.Context, step func() error) {
	for ctx.Err() == nil && step() != nil {
		time.Sleep(200 * time.Millisecond)
	}
}

func (p *player) makeNode(ctx context.Context, name string, ssd bool) error {
	labels := map[string]string{"kubernetes.io/hostname": name}
	if ssd {
		labels["storageType"] = "ssd"
	}
	node, err := p.client.CoreV1().Nodes().Create(ctx,
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}, metav1.CreateOptions{})
	if errors.IsAlreadyExists(err) {
		node, err = p.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	}
	if err != nil {
		return err
	}
	room := corev1.ResourceList{
		"cpu": resource.MustParse("4000"), "memory": resource.MustParse("16Ti"), "pods": resource.MustParse("5000"),
		"ephemeral-storage": resource.MustParse("16Ti"), gpu: resource.MustParse("1000"),
	}
	node.Status = corev1.NodeStatus{Capacity: room, Allocatable: room,
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: "True", Reason: "KubeletReady",
			LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now()}}}
	_, err = p.client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{})
	return err
}

// see begins what is due for a pod, once.
func (p *player) see(ctx context.Context, pod *corev1.Pod) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	switch {
	case pod.DeletionTimestamp != nil:
		if !p.ended[pod.UID] {
			p.ended[pod.UID] = true
			go p.play(pod, p.ended, func() error { return p.end(ctx, pod.DeepCopy()) })
		}
	case pod.Status.Phase == "" || pod.Status.Phase == corev1.PodPending:
		if !p.begun[pod.UID] {
			p.begun[pod.UID] = true
			go p.play(pod, p.begun, func() error { return p.live(ctx, pod.DeepCopy()) })
		}
	}
}

// play forgets what went wrong, so that it is begun again.
func (p *player) play(pod *corev1.Pod, played map[types.UID]bool, scene func() error) {
	err := scene()
	if err == nil || errors.IsNotFound(err) {
		return
	}
	fmt.Printf("pod %s/%s: %v\n", pod.Namespace, pod.Name, err)
	p.mutex.Lock()
	delete(played, pod.UID)
	p.mutex.Unlock()
}

func (p *player) end(ctx context.Context, pod *corev1.Pod) error {
	wait := 100 * time.Millisecond
	if seconds, err := strconv.ParseFloat(pod.Annotations[stopping], 64); err == nil {
		wait = time.Duration(seconds * float64(time.Second))
	}
	if grace := pod.DeletionGracePeriodSeconds; grace != nil {
		wait = min(wait, time.Duration(*grace)*time.Second)
	}
	if pod.Spec.NodeName != "" {
		time.Sleep(wait)
	}
	zero := int64(0)
	return p.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &pod.UID}})
}

func (p *player) live(ctx context.Context, pod *corev1.Pod) error {
	if pod.Spec.NodeName == "" {
		if why := noRoom(pod); why != "" {
			p.event(ctx, pod, "FailedScheduling", why)
			return p.status(ctx, pod, corev1.PodPending, nil, func(status *corev1.PodStatus) {
				status.Conditions = []corev1.PodCondition{condition(corev1.PodScheduled, "False", "Unschedulable", why)}
			})
		}
		target := nodes[0]
		if len(pod.Spec.NodeSelector) == 0 && int(pod.UID[0])%2 == 1 && pod.Annotations[behaviour] != "" {
			target = nodes[1]
		}
		err := p.client.CoreV1().Pods(pod.Namespace).Bind(ctx, &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Name: pod.Name, UID: pod.UID},
			Target:     corev1.ObjectReference{Kind: "Node", Name: target}}, metav1.CreateOptions{})
		if err != nil && !errors.IsConflict(err) {
			return err
		}
	}
	life, argument, _ := strings.Cut(pod.Annotations[behaviour], "=")
	waits := func(reason, message string) corev1.ContainerState {
		return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
	}
	runs := corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}
	image := pod.Spec.Containers[0].Image
	switch life {
	case "image-pull":
		why := fmt.Sprintf("failed to pull and unpack image %q: failed to resolve reference %q: %s: not found", image, image, image)
		p.event(ctx, pod, "Failed", fmt.Sprintf("Failed to pull image %q: %s", image, why))
		if err := p.status(ctx, pod, corev1.PodPending, containers(pod, waits("ErrImagePull", why), 0, nil), nil); err != nil {
			return err
		}
		time.Sleep(time.Second)
		p.event(ctx, pod, "Failed", "Error: ImagePullBackOff")
		back := fmt.Sprintf("Back-off pulling image %q: ErrImagePull: %s", image, why)
		err := p.status(ctx, pod, corev1.PodPending, containers(pod, waits("ImagePullBackOff", back), 0, nil), nil)
		if err != nil || !passes(argument) {
			return err
		}
	case "crash-loop":
		over := &corev1.ContainerStateTerminated{ExitCode: 1, Reason: "Error", StartedAt: metav1.Now(), FinishedAt: metav1.Now()}
		if err := p.status(ctx, pod, corev1.PodRunning,
			containers(pod, corev1.ContainerState{Terminated: over}, 1, nil), nil); err != nil {
			return err
		}
		time.Sleep(300 * time.Millisecond)
		why := fmt.Sprintf("back-off 10s restarting failed container=%s pod=%s_%s(%s)", pod.Spec.Containers[0].Name,
			pod.Name, pod.Namespace, pod.UID)
		p.event(ctx, pod, "BackOff", "Back-off restarting failed container "+pod.Spec.Containers[0].Name)
		err := p.status(ctx, pod, corev1.PodRunning, containers(pod, waits("CrashLoopBackOff", why), 2, over), nil)
		if err != nil || !passes(argument) {
			return err
		}
	case "evict":
		return p.status(ctx, pod, corev1.PodFailed, nil, func(status *corev1.PodStatus) {
			status.Reason = "Evicted"
			status.Message = "The node was low on resource: ephemeral-storage. Threshold quantity: 1Gi, available: 100Mi."
		})
	case "exit":
		over := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 0, Reason: "Completed",
			StartedAt: metav1.Now(), FinishedAt: metav1.Now()}}
		return p.status(ctx, pod, corev1.PodSucceeded, containers(pod, over, 0, nil), nil)
	case "stuck":
		p.event(ctx, pod, "FailedMount", `MountVolume.SetUp failed for volume "data" : configmap "missing" not found`)
		return p.status(ctx, pod, corev1.PodPending, containers(pod, waits("ContainerCreating", ""), 0, nil), nil)
	case "config-error":
		why := `secret "x" not found`
		p.event(ctx, pod, "Failed", "Error: "+why)
		err := p.status(ctx, pod, corev1.PodPending, containers(pod, waits("CreateContainerConfigError", why), 0, nil), nil)
		if err != nil || !passes(argument) {
			return err
		}
	case "not-ready":
		return p.status(ctx, pod, corev1.PodRunning, containers(pod, runs, 0, nil), func(status *corev1.PodStatus) {
			status.ContainerStatuses[0].Ready = false
			status.Conditions = append(status.Conditions, condition(corev1.PodReady, "False", "ContainersNotReady",
				fmt.Sprintf("containers with unready status: [%s]", pod.Spec.Containers[0].Name)))
		})
	}
	wait := 100 * time.Millisecond
	if seconds, err := strconv.ParseFloat(argument, 64); err == nil && life == "slow" {
		wait = time.Duration(seconds * float64(time.Second))
	}
	time.Sleep(wait)
	return p.status(ctx, pod, corev1.PodRunning, containers(pod, runs, 0, nil), func(status *corev1.PodStatus) {
		status.PodIP = "10.1.2.3"
		status.PodIPs = []corev1.PodIP{{IP: status.PodIP}}
		status.Conditions = append(status.Conditions, condition(corev1.PodReady, "True", "", ""),
			condition(corev1.ContainersReady, "True", "", ""))
	})
}

// passes waits until a trouble has passed; false: it never does.
func passes(argument string) bool {
	seconds, err := strconv.ParseFloat(argument, 64)
	if err == nil {
		time.Sleep(time.Duration(seconds * float64(time.Second)))
	}
	return err == nil
}

// noRoom says why no node can take a pod. Others' pods are not reckoned with.
func noRoom(pod *corev1.Pod) string {
	most := map[corev1.ResourceName]resource.Quantity{"cpu": resource.MustParse("4000"), "memory": resource.MustParse("16Ti")}
	for _, container := range pod.Spec.Containers {
		for name, room := range most {
			if want, ok := container.Resources.Requests[name]; ok && want.Cmp(room) > 0 {
				return fmt.Sprintf("0/%d nodes are available: %d Insufficient %s. preemption: 0/%d nodes are available: "+
					"%d Preemption is not helpful for scheduling.", len(nodes), len(nodes), name, len(nodes), len(nodes))
			}
		}
	}
	return ""
}

func condition(kind corev1.PodConditionType, status corev1.ConditionStatus, reason, message string) corev1.PodCondition {
	return corev1.PodCondition{Type: kind, Status: status, Reason: reason, Message: message, LastTransitionTime: metav1.Now()}
}

func containers(pod *corev1.Pod, state corev1.ContainerState, restarts int32,
	last *corev1.ContainerStateTerminated) []corev1.ContainerStatus {
	var statuses []corev1.ContainerStatus
	for _, container := range pod.Spec.Containers {
		started := state.Running != nil
		statuses = append(statuses, corev1.ContainerStatus{Name: container.Name, Image: container.Image, State: state,
			LastTerminationState: corev1.ContainerState{Terminated: last}, RestartCount: restarts,
			Ready: started, Started: &started})
	}
	return statuses
}

// status writes a pod's status as its kubelet would.
func (p *player) status(ctx context.Context, pod *corev1.Pod, phase corev1.PodPhase, statuses []corev1.ContainerStatus,
	more func(*corev1.PodStatus)) error {
	for {
		current, err := p.client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if current.UID != pod.UID || current.DeletionTimestamp != nil {
			return nil
		}
		start := metav1.Now()
		current.Status.Phase, current.Status.ContainerStatuses, current.Status.StartTime = phase, statuses, &start
		current.Status.Conditions = []corev1.PodCondition{condition(corev1.PodScheduled, "True", "", "")}
		if more != nil {
			more(&current.Status)
		}
		_, err = p.client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, current, metav1.UpdateOptions{})
		if !errors.IsConflict(err) {
			return err
		}
	}
}

func (p *player) event(ctx context.Context, pod *corev1.Pod, reason, message string) {
	now := metav1.Now()
	event := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{GenerateName: pod.Name + ".", Namespace: pod.Namespace},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name,
			UID: pod.UID},
		Reason: reason, Message: message, Type: corev1.EventTypeWarning, FirstTimestamp: now, LastTimestamp: now, Count: 1,
		Source: corev1.EventSource{Component: "kubelet"},
	}
	if _, err := p.client.CoreV1().Events(pod.Namespace).Create(ctx, event, metav1.CreateOptions{}); err != nil {
		fmt.Printf("event of pod %s/%s: %v\n", pod.Namespace, pod.Name, err)
	}
}
