package main

import (
	"context"
	"os"
	"time"

	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/keyutil"
	"k8s.io/klog/v2"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	"k8s.io/controller-manager/pkg/informerfactory"
	pkgcontroller "k8s.io/kubernetes/pkg/controller"
	"k8s.io/kubernetes/pkg/controller/clusterroleaggregation"
	"k8s.io/kubernetes/pkg/controller/namespace"
	"k8s.io/kubernetes/pkg/controller/resourcequota"
	serviceaccounts "k8s.io/kubernetes/pkg/controller/serviceaccount"
	quotainstall "k8s.io/kubernetes/pkg/quota/v1/install"
	"k8s.io/kubernetes/pkg/serviceaccount"
)

// controllers runs those of kube-controller-manager that are needed: namespaces (their deletion), service accounts and
// their tokens, resource quotas, and the aggregation of cluster roles. The whole of it would pull in the volume plugins
// and cost minutes of compiling.
func controllers(ctx context.Context, config *rest.Config, args []string) error {
	key, err := keyutil.PrivateKeyFromFile(args[0])
	if err != nil {
		return err
	}
	ca, err := os.ReadFile(args[1])
	if err != nil {
		return err
	}
	client := kubernetes.NewForConfigOrDie(config)
	metadataClient := metadata.NewForConfigOrDie(config)
	logger := klog.FromContext(ctx)
	factory := informers.NewSharedInformerFactory(client, 10*time.Minute)

	metadataFactory := metadatainformer.NewSharedInformerFactory(metadataClient, 10*time.Minute)

	namespaces := namespace.NewNamespaceController(ctx, client, metadataClient,
		client.Discovery().ServerPreferredNamespacedResources, factory.Core().V1().Namespaces(),
		5*time.Minute, corev1.FinalizerKubernetes)
	accounts, err := serviceaccounts.NewServiceAccountsController(logger, factory.Core().V1().ServiceAccounts(),
		factory.Core().V1().Namespaces(), client, serviceaccounts.DefaultServiceAccountsControllerOptions())
	if err != nil {
		return err
	}
	generator, err := serviceaccount.JWTTokenGenerator(serviceaccount.LegacyIssuer, key)
	if err != nil {
		return err
	}
	tokens, err := serviceaccounts.NewTokensController(logger, factory.Core().V1().ServiceAccounts(),
		factory.Core().V1().Secrets(), client,
		serviceaccounts.TokensControllerOptions{TokenGenerator: generator, RootCA: ca})
	if err != nil {
		return err
	}
	evaluators, err := quotainstall.NewQuotaConfigurationForControllers(
		generic.ListerFuncForResourceFunc(factory.ForResource), factory)
	if err != nil {
		return err
	}
	started := make(chan struct{})
	quotas, err := resourcequota.NewController(ctx, &resourcequota.ControllerOptions{
		QuotaClient:               client.CoreV1(),
		ResourceQuotaInformer:     factory.Core().V1().ResourceQuotas(),
		ResyncPeriod:              pkgcontroller.StaticResyncPeriodFunc(10 * time.Second),
		InformerFactory:           informerfactory.NewInformerFactory(factory, metadataFactory),
		ReplenishmentResyncPeriod: pkgcontroller.StaticResyncPeriodFunc(time.Minute),
		DiscoveryFunc:             pods,
		IgnoredResourcesFunc:      evaluators.IgnoredResources,
		InformersStarted:          started,
		Registry:                  generic.NewRegistry(evaluators.Evaluators()),
		UpdateFilter:              quotainstall.DefaultUpdateFilter(),
	})
	if err != nil {
		return err
	}
	roles := clusterroleaggregation.NewClusterRoleAggregation(factory.Rbac().V1().ClusterRoles(), client.RbacV1())

	factory.Start(ctx.Done())
	close(started)
	go namespaces.Run(ctx, 20)
	go accounts.Run(ctx, 5)
	go tokens.Run(ctx, 20)
	go quotas.Run(ctx, 5)
	go roles.Run(ctx, 2)
	<-ctx.Done()
	return nil
}

// pods is what the quota controller follows: quotas of anything else are not reckoned with.
func pods() ([]*metav1.APIResourceList, error) {
	return []*metav1.APIResourceList{{
		GroupVersion: "v1",
		APIResources: []metav1.APIResource{{
			Name: "pods", Namespaced: true, Kind: "Pod",
			Verbs: metav1.Verbs{"create", "delete", "get", "list", "patch", "update", "watch"},
		}},
	}}, nil
}
