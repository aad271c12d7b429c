# SPDX-License-Identifier: Apache-2.0
# deadline: 20
echo waiting for what never comes
sleep 1000 &
trap '' TERM INT
while :; do sleep 1; done
