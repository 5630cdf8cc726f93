// The add-ons of a test cluster in one program: CoreDNS, with the plugins that its Corefile names, and
// metrics-server. Each runs when the program is called by its name.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/coredns/coredns/coremain"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/component-base/logs"
	metrics "sigs.k8s.io/metrics-server/cmd/metrics-server/app"

	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
)

func main() {
	switch name := filepath.Base(os.Args[0]); name {
	case "coredns":
		coremain.Run()
	case "metrics-server":
		logs.InitLogs()
		defer logs.FlushLogs()
		if err := metrics.NewMetricsServerCommand(genericapiserver.SetupSignalHandler()).Execute(); err != nil {
			panic(err)
		}
	default:
		fmt.Fprintf(os.Stderr, "%s: call this as coredns or metrics-server\n", name)
		os.Exit(2)
	}
}
