package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

const (
	projectAPI   = "project.openshift.io/v1"
	bindingAPI   = "authorization.openshift.io/v1"
	requestedBy  = "openshift.io/requester"
	displayName  = "openshift.io/display-name"
	description  = "openshift.io/description"
	projectPath  = "/apis/" + projectAPI
	bindingsPath = "/apis/" + bindingAPI
)

// shift answers for the few of OpenShift's types that the openshift driver uses, as an API server behind the aggregator:
// a project is a namespace, a role binding one of RBAC. It is a stand-in, and stands in for these types only.
type shift struct {
	client kubernetes.Interface
}

func openshift(ctx context.Context, config *rest.Config, args []string) error {
	port, cert, key, ca := args[0], args[1], args[2], args[3]
	pem, err := os.ReadFile(ca)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	s := &shift{kubernetes.NewForConfigOrDie(config)}
	s.giveTokens(ctx)
	server := &http.Server{
		Addr:    "127.0.0.1:" + port,
		Handler: s,
		// Who calls is in headers, so only the aggregator may call.
		TLSConfig: &tls.Config{ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool},
	}
	go func() {
		<-ctx.Done()
		server.Close()
	}()
	return server.ListenAndServeTLS(cert, key)
}

// giveTokens lists a secret with a token in each service account of a project, as OpenShift did before 4.16: Python
// Nodepool's openshift driver waits for that.
func (s *shift) giveTokens(ctx context.Context) {
	factory := informers.NewSharedInformerFactory(s.client, 2*time.Second)
	give := func(object any) {
		account := object.(*corev1.ServiceAccount)
		if len(account.Secrets) > 0 {
			return
		}
		namespace, err := s.client.CoreV1().Namespaces().Get(ctx, account.Namespace, metav1.GetOptions{})
		if err != nil || namespace.Annotations[requestedBy] == "" || namespace.DeletionTimestamp != nil {
			return
		}
		name := account.Name + "-token-stand-in"
		_, err = s.client.CoreV1().Secrets(account.Namespace).Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{corev1.ServiceAccountNameKey: account.Name}},
			Type:       corev1.SecretTypeServiceAccountToken}, metav1.CreateOptions{})
		if err == nil || errors.IsAlreadyExists(err) {
			account = account.DeepCopy()
			account.Secrets = []corev1.ObjectReference{{Name: name}}
			_, err = s.client.CoreV1().ServiceAccounts(account.Namespace).Update(ctx, account, metav1.UpdateOptions{})
		}
		if err != nil {
			fmt.Printf("token for %s/%s: %v\n", account.Namespace, account.Name, err)
		}
	}
	// What failed is tried again when the informer shows the account anew.
	_, _ = factory.Core().V1().ServiceAccounts().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(object any) { go give(object) }, UpdateFunc: func(_, object any) { go give(object) }})
	factory.Start(ctx.Done())
}

func (s *shift) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	peers := r.TLS.PeerCertificates
	if len(peers) == 0 || peers[0].Subject.CommonName != "front-proxy" {
		refuse(w, errors.NewUnauthorized("only the aggregator may call"))
		return
	}
	body, err := s.answer(r)
	if err != nil {
		refuse(w, err)
		return
	}
	status := http.StatusOK
	if r.Method == http.MethodPost {
		status = http.StatusCreated
	}
	reply(w, status, body)
}

func (s *shift) answer(r *http.Request) (any, error) {
	path := strings.TrimSuffix(r.URL.Path, "/")
	switch {
	case path == projectPath:
		return resources(projectAPI,
			metav1.APIResource{Name: "projects", SingularName: "project", Kind: "Project", Verbs: metav1.Verbs{"delete", "get", "list"}},
			metav1.APIResource{Name: "projectrequests", SingularName: "projectrequest", Kind: "ProjectRequest", Verbs: metav1.Verbs{"create"}}), nil
	case path == bindingsPath:
		return resources(bindingAPI, metav1.APIResource{Name: "rolebindings", SingularName: "rolebinding",
			Kind: "RoleBinding", Namespaced: true, Verbs: metav1.Verbs{"create"}}), nil
	case path == projectPath+"/projectrequests" && r.Method == http.MethodPost:
		return s.request(r)
	case path == projectPath+"/projects" && r.Method == http.MethodGet:
		return s.list(r)
	case strings.HasPrefix(path, projectPath+"/projects/"):
		return s.project(r, strings.TrimPrefix(path, projectPath+"/projects/"))
	}
	if rest, ok := strings.CutPrefix(path, bindingsPath+"/namespaces/"); ok && r.Method == http.MethodPost {
		if namespace, ok := strings.CutSuffix(rest, "/rolebindings"); ok {
			return s.bind(r, namespace)
		}
	}
	return nil, errors.NewNotFound(corev1.Resource("paths"), path)
}

// request makes a project. As in OpenShift, of what was asked for it keeps the name and the two texts, and drops labels and
// annotations (openshift/origin issue 3819).
func (s *shift) request(r *http.Request) (any, error) {
	var wanted struct {
		metav1.ObjectMeta `json:"metadata"`
		DisplayName       string `json:"displayName"`
		Description       string `json:"description"`
	}
	if err := json.NewDecoder(r.Body).Decode(&wanted); err != nil {
		return nil, errors.NewBadRequest(err.Error())
	}
	user := r.Header.Get("X-Remote-User")
	namespace, err := s.client.CoreV1().Namespaces().Create(r.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: wanted.Name, Annotations: map[string]string{
			requestedBy: user, displayName: wanted.DisplayName, description: wanted.Description}}}, metav1.CreateOptions{})
	if err != nil {
		return nil, err
	}
	subject := rbacv1.Subject{Kind: "User", APIGroup: rbacv1.GroupName, Name: user}
	if err := s.grant(r.Context(), wanted.Name, "admin", "admin", []rbacv1.Subject{subject}); err != nil {
		return nil, err
	}
	return project(namespace), nil
}

func (s *shift) list(r *http.Request) (any, error) {
	namespaces, err := s.client.CoreV1().Namespaces().List(r.Context(),
		metav1.ListOptions{LabelSelector: r.URL.Query().Get("labelSelector")})
	if err != nil {
		return nil, err
	}
	items := []any{}
	for _, namespace := range namespaces.Items {
		if s.mayDo(r, "get", &namespace) {
			items = append(items, project(&namespace))
		}
	}
	return map[string]any{"apiVersion": projectAPI, "kind": "ProjectList",
		"metadata": map[string]any{"resourceVersion": namespaces.ResourceVersion}, "items": items}, nil
}

func (s *shift) project(r *http.Request, name string) (any, error) {
	resource := corev1.Resource("projects")
	namespace, missing := s.client.CoreV1().Namespaces().Get(r.Context(), name, metav1.GetOptions{})
	verb := map[string]string{http.MethodGet: "get", http.MethodDelete: "delete"}[r.Method]
	if verb == "" {
		return nil, errors.NewMethodNotSupported(resource, r.Method)
	}
	if missing != nil && !errors.IsNotFound(missing) {
		return nil, missing
	}
	if missing != nil {
		// Who may see no namespaces but his own is not told that there is none.
		namespace = &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	}
	if !s.mayDo(r, verb, namespace) {
		return nil, errors.NewForbidden(resource, name, fmt.Errorf("User %q cannot %s resource \"projects\"",
			r.Header.Get("X-Remote-User"), verb))
	}
	if missing != nil {
		return nil, missing
	}
	if verb == "get" {
		return project(namespace), nil
	}
	options := metav1.DeleteOptions{}
	if err := json.NewDecoder(r.Body).Decode(&options); err != nil && err != io.EOF {
		return nil, errors.NewBadRequest(err.Error())
	}
	if err := s.client.CoreV1().Namespaces().Delete(r.Context(), name, options); err != nil {
		return nil, err
	}
	return metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: "Success"}, nil
}

// mayDo tells whether a project is the caller's own, or he may do the same to namespaces.
func (s *shift) mayDo(r *http.Request, verb string, namespace *corev1.Namespace) bool {
	user := r.Header.Get("X-Remote-User")
	if namespace.Annotations[requestedBy] == user {
		return true
	}
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: user, Groups: r.Header.Values("X-Remote-Group"),
		ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: verb, Resource: "namespaces", Name: namespace.Name}}}
	answer, err := s.client.AuthorizationV1().SubjectAccessReviews().Create(r.Context(), review, metav1.CreateOptions{})
	return err == nil && answer.Status.Allowed
}

func (s *shift) bind(r *http.Request, namespace string) (any, error) {
	var wanted struct {
		metav1.ObjectMeta `json:"metadata"`
		RoleRef           struct{ Name string }
		Subjects          []struct{ Kind, Name, Namespace string }
	}
	if err := json.NewDecoder(r.Body).Decode(&wanted); err != nil {
		return nil, errors.NewBadRequest(err.Error())
	}
	place, err := s.client.CoreV1().Namespaces().Get(r.Context(), namespace, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	if !s.mayDo(r, "update", place) {
		return nil, errors.NewForbidden(rbacv1.Resource("rolebindings"), wanted.Name, fmt.Errorf("it is not your project"))
	}
	var subjects []rbacv1.Subject
	for _, subject := range wanted.Subjects {
		subjects = append(subjects, rbacv1.Subject{Kind: subject.Kind, Name: subject.Name, Namespace: subject.Namespace})
	}
	if err := s.grant(r.Context(), namespace, wanted.Name, wanted.RoleRef.Name, subjects); err != nil {
		return nil, err
	}
	return map[string]any{"apiVersion": bindingAPI, "kind": "RoleBinding",
		"metadata": map[string]any{"name": wanted.Name, "namespace": namespace}, "subjects": wanted.Subjects,
		"roleRef": map[string]any{"name": wanted.RoleRef.Name}}, nil
}

func (s *shift) grant(ctx context.Context, namespace, name, role string, subjects []rbacv1.Subject) error {
	_, err := s.client.RbacV1().RoleBindings(namespace).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects:   subjects}, metav1.CreateOptions{})
	return err
}

func project(namespace *corev1.Namespace) any {
	metadata := namespace.ObjectMeta
	metadata.ManagedFields = nil
	return map[string]any{"apiVersion": projectAPI, "kind": "Project", "metadata": metadata,
		"spec":   map[string]any{"finalizers": namespace.Spec.Finalizers},
		"status": map[string]any{"phase": namespace.Status.Phase}}
}

func resources(version string, resources ...metav1.APIResource) any {
	return metav1.APIResourceList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "APIResourceList"},
		GroupVersion: version, APIResources: resources}
}

func refuse(w http.ResponseWriter, err error) {
	status, ok := err.(errors.APIStatus)
	if !ok {
		status = errors.NewInternalError(err)
	}
	answer := status.Status()
	answer.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}
	reply(w, int(answer.Code), answer)
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}
