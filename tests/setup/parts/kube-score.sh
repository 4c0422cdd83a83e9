# kube-score, which looks at rendered objects the way a careful platform team does.
build() {
  check_go_version kube-score github.com/zegl/kube-score "$kube_score"
  go_tools kube-score "$1" -ldflags "-s -w"
}
cached kube_score "$kube_score" build
