package traffic

import (
	"errors"
	"fmt"
	"math/big"
	"strconv"
	"strings"
)

// Weight is a share of new flows in parts per million, 0 to Whole. Zero is a
// value ("none"), never "unset".
type Weight int

// Whole is the weight of all flows: 100 %.
const Whole Weight = 1_000_000

// ParseWeight reads a share as people write it: "5%", "0.1%" or "1/3". It is
// rounded to the nearest part per million, but a share above zero never
// becomes zero and one below the whole never becomes the whole. A bare number
// is refused, because elsewhere it means a relative weight.
func ParseWeight(text string) (Weight, error) {
	number, unit, err := cutUnit(strings.TrimSpace(text))
	if err != nil {
		return 0, err
	}
	// Digits alone, and few: an exponent would make big.Rat compute for hours.
	if len(number) > 32 || strings.Trim(number, "+-./0123456789") != "" {
		return 0, notAShare(text)
	}
	share, ok := new(big.Rat).SetString(number)
	if !ok {
		return 0, notAShare(text)
	}
	ppm := share.Mul(share, unit)
	switch {
	case ppm.Sign() < 0:
		return 0, fmt.Errorf("%s is negative", text)
	case ppm.Cmp(big.NewRat(int64(Whole), 1)) > 0:
		return 0, fmt.Errorf("%s is over 100%%", text)
	}
	return roundInside(ppm), nil
}

// cutUnit splits "5%" or "1/3" into its number and what one of it is worth in
// parts per million.
func cutUnit(text string) (string, *big.Rat, error) {
	if number, ok := strings.CutSuffix(text, "%"); ok {
		if strings.Contains(number, "/") {
			return "", nil, fmt.Errorf("%q mixes a fraction and a percentage: write one of them", text)
		}
		return strings.TrimSpace(number), big.NewRat(int64(Whole)/100, 1), nil
	}
	if strings.Contains(text, "/") {
		return text, big.NewRat(int64(Whole), 1), nil
	}
	if number, err := strconv.ParseFloat(text, 64); err == nil {
		cure := text + "%"
		if 0 < number && number <= 1 {
			cure += fmt.Sprintf(", or %.6g%% if it is a part of one", 100*number)
		}
		return "", nil, fmt.Errorf("%s is a bare number: write %s", text, cure)
	}
	if text == "" {
		return "", nil, errors.New("a share is missing: write a percentage such as 5%")
	}
	return "", nil, notAShare(text)
}

func notAShare(text string) error {
	return fmt.Errorf("%q is not a share: write a percentage such as 5%% or a fraction such as 1/3", text)
}

// roundInside rounds a share to the nearest ppm without reaching 0 or the
// whole unless the share is exactly that.
func roundInside(ppm *big.Rat) Weight {
	doubled := new(big.Int).Mul(ppm.Num(), big.NewInt(2))
	doubled.Add(doubled, ppm.Denom())
	rounded := Weight(doubled.Div(doubled, new(big.Int).Mul(ppm.Denom(), big.NewInt(2))).Int64())
	if rounded == 0 && ppm.Sign() > 0 {
		return 1
	}
	if rounded == Whole && ppm.Cmp(big.NewRat(int64(Whole), 1)) < 0 {
		return Whole - 1
	}
	return rounded
}

// String writes the weight as a percentage without trailing zeros: "5%",
// "0.1%", "33.3333%". ParseWeight reads it back exactly.
func (w Weight) String() string {
	// One division, so that the float is the nearest to the decimal fraction
	// and its shortest form is that fraction: 7 * 0.01 * 100 would be 7.000000000000001.
	return strconv.FormatFloat(float64(w)/float64(Whole/100), 'f', -1, 64) + "%"
}

// Valid says whether w lies between nothing and the whole.
func (w Weight) Valid() bool { return w >= 0 && w <= Whole }
