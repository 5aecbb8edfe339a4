// A reward as a service of one's own, in Go; build.sh builds it.
// Scores query by the length of the answer: 1 up to the parameter `words`, less beyond it.
package main

import (
	"context"
	"fmt"
	"log"
	"math"
	"net"
	"os"
	"strings"

	"google.golang.org/grpc"

	common "moontune/gen/common/v1"
	reward "moontune/gen/reward/v1"
)

type shortAnswer struct {
	reward.UnimplementedRewardPluginServiceServer
}

const words = 3.0

func (shortAnswer) DescribeReward(context.Context, *reward.DescribeRewardRequest) (*reward.DescribeRewardResponse, error) {
	return &reward.DescribeRewardResponse{Info: &reward.RewardInfo{
		Name:        "short_answer",
		Description: "min(1, words / words of the answer)",
		Skills:      []common.Skill{common.Skill_SKILL_QUERY},
		Parameters: []*reward.RewardParameter{{
			Name:         "words",
			DefaultValue: &reward.ParameterValue{Value: &reward.ParameterValue_Number{Number: words}},
			Description:  "words that are free",
		}},
		Maximum: 1,
	}}, nil
}

func (shortAnswer) ScoreSamples(_ context.Context, request *reward.ScoreSamplesRequest) (*reward.ScoreSamplesResponse, error) {
	free := words
	if given, ok := request.Parameters["words"]; ok {
		free = given.GetNumber()
	}
	response := &reward.ScoreSamplesResponse{}
	for _, sample := range request.Samples {
		said := math.Max(float64(len(strings.Fields(sample.Output.GetQuery().Answer))), 1)
		value := math.Min(1, free/said)
		response.Results = append(response.Results, &reward.RewardResult{
			Reward:     &value,
			Components: map[string]float64{"said": said},
			Status:     reward.ParseStatus_PARSE_STATUS_OK,
		})
	}
	return response, nil
}

func main() {
	port := "0"
	if len(os.Args) > 1 {
		port = os.Args[1]
	}
	listener, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	reward.RegisterRewardPluginServiceServer(server, shortAnswer{})
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	log.Fatal(server.Serve(listener))
}
