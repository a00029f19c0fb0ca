// Command kube is a Kubernetes control plane in one binary, for tests on one machine.
//
// etcd and the API server are the real ones, and so are the controllers that a Nodepool meets (controllers.go), and those of
// the workloads that run one (workloads.go). Nodes and
// the life of pods are simulated through the API (kubelet.go), as is the little of OpenShift that the openshift driver
// uses (openshift.go). tests/services/kube/run puts them together.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {
	if len(os.Args) < 2 {
		usage()
	}
	command, args := os.Args[1], os.Args[2:]
	switch command {
	case "etcd":
		etcdmain.Main(append([]string{"etcd"}, args...))
	case "apiserver":
		// The command reads the process's own arguments.
		os.Args = append([]string{"kube-apiserver"}, args...)
		os.Exit(cli.Run(app.NewAPIServerCommand()))
	case "controllers":
		run(args, 3, controllers)
	case "workloads":
		run(args, 1, workloads)
	case "kubelet":
		run(args, 1, kubelet)
	case "openshift":
		run(args, 5, openshift)
	default:
		usage()
	}
}

func usage() {
	fmt.Fprint(os.Stderr, `usage: kube etcd|apiserver OPTION...
       kube controllers KUBECONFIG SERVICE_ACCOUNT_KEY CA
       kube workloads KUBECONFIG
       kube kubelet KUBECONFIG
       kube openshift KUBECONFIG PORT CERT KEY CA
`)
	os.Exit(2)
}

// run calls a component of ours with a client that no rate limit slows down.
func run(args []string, want int, component func(context.Context, *rest.Config, []string) error) {
	if len(args) != want {
		usage()
	}
	config, err := clientcmd.BuildConfigFromFlags("", args[0])
	if err != nil {
		fail(err)
	}
	config.QPS, config.Burst = -1, 0
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := component(ctx, config, args[1:]); err != nil && ctx.Err() == nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
