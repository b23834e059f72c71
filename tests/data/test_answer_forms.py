"""Answers in all the forms that people, data sets and models write: read whole, or compared as text."""

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lmlab.data.answers import answers_match, extract_answer, grade_response
from lmlab.data.augmentation import resample_numbers
from lmlab.data.numbers import parse_gold, read_answer
from lmlab.data.reasoning import reasoning_rows
from lmlab.evaluation.rewards import accuracy_reward

DATA = Path(__file__).parents[3] / "shared" / "data"  # real problems, where there are any


def rewarded(said: str, gold: str, unit: str = "") -> bool:
    """By the reward itself, however the answer is said."""
    texts = (f"I think.\n</think>\n\nThe answer is {said}.", f"I think.\n</think>\n\nSo $\\boxed{{{said}}}$.")
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    rewards = accuracy_reward(completions, [gold] * 2, [0.0] * 2, [unit] * 2)
    assert rewards[0] == rewards[1], (said, gold, rewards)
    return bool(rewards[0])


# --- right answers, written otherwise ----------------------------------------------------------------

# gold | what says the same, one or more
RIGHT = r"""
58 1/2 | 58.5 | 117/2 | 58½ | 58\frac{1}{2} | 58\frac12 | 58 \tfrac{1}{2}
\frac{3}{4} | 3/4 | 0.75 | ¾ | 3⁄4 | \dfrac34 | .75 | 75\% | 6/8
10^3 | 1000 | 1,000 | 1e3 | 10³ | 10^{3} | 1\times10^3 | 1 000 | 10**3
12000 | 12,000.00 | 12 000 | 12'000 | 12,\!000 | 12{,}000 | 1.2e4
1 234 | 1234 | 1,234 | 1’234 | 1 234 | 1234.0
1.234 | 1.2340 | 1234/1000 | 1.234e0
1,234 | 1234 | 1.234e3 | 1.234 \times 10^3 | 1.234·10³
1234567 | 1,234,567 | 1 234 567
5½ | 5.5 | 11/2 | 5 1/2 | 5\frac{1}{2}
− 3 | -3 | –3 | minus 3 | negative 3 | -3.0 | (-3) | $-3$
1.5 \times 10^{3} | 1500 | 1.5e3 | 1.5E+3 | 1.5×10³ | 1.5·10^3 | 1.5x10^3 | 1,500
10^{-3} | 0.001 | 1e-3 | 10⁻³ | .001 | 1/1000
\sqrt{2} | √2 | \sqrt2 | 2^{1/2} | \frac{2}{\sqrt{2}} | 2^{0.5}
2½ | 2.5 | 5/2
5π | 5\pi | 5 \pi | 5\cdot\pi | \pi\cdot 5 | 5⋅π | 10\pi/2 | 5pi
5√2 | 5\sqrt{2} | \sqrt{50} | 5·√2 | 5\sqrt2 | \frac{10}{\sqrt{2}}
5⋅3 | 15 | 5·3 | 5\times3 | 5*3 | 5 \cdot 3
5⁄6 | 5/6 | \frac{5}{6} | \frac56 | ⅚
5 ± 1 | 4, 6 | 6, 4 | 5\pm1 | 5 \pm 1
5'000 | 5000 | 5,000 | 5 000
0.\overline{3} | 1/3 | \frac13 | ⅓
0.1\overline{6} | 1/6
0.\overline{27} | 3/11
10³ | 1000
$5 million | 5000000 | 5 million dollars | $5,000,000 | 5,000,000
$0.50 | 50 cents | 0.5 | $.50 | \$0.50 | 0.50 dollars | 1/2 dollar | $0.5
$1,200.50 | 1200.50 | 1200.5 dollars | $1200.50
1e3 | 10^3 | 1000
11,\! 111,\! 100 | 11111100 | 11,111,100 | 11 111 100
\text{The answer is 460} | 460 | 460.0
4210_5 | 4210_{5} | 4210_{\text{5}} | 4210_5
x=5, y=6 | y=6, x=5 | x = 5,\; y = 6 | x=5,\quad y=6
(5,6) | x=5, y=6 | (5, 6) | \left(5,\,6\right) | ( 5 , 6 )
x = 5 | 5 | 5.0 | x=5 | x \approx 5
\approx 5 | 5 | ≈5 | about 5 | approximately 5
3, 5 | 5, 3 | 3,5 | 3 \text{ and } 5 | 3 and 5
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} | \begin{bmatrix} 1 & 2 \\ 3 & 4 \end{bmatrix} | \begin{pmatrix} 1 & 4/2 \\ 3 & 4 \end{pmatrix}
\begin{pmatrix} -1/3 \\ 2/3 \end{pmatrix} | \begin{pmatrix} -\frac{1}{3} \\ \frac{2}{3} \end{pmatrix} | \begin{pmatrix}-1/3\\2/3\end{pmatrix}
90^\circ | 90 | 90° | 90 degrees | 90^{\circ} | 90 \text{ degrees}
25 °C | 25^{\circ}\mathrm{C} | 25 degrees Celsius | 25
50\% | 50% | 0.5 | 50 percent | 50 per cent | 1/2 | 50
5 \mathrm{kJ\,mol^{-1}} | 5 kJ/mol | 5 kJ mol⁻¹ | 5 \frac{\text{kJ}}{\text{mol}} | 5000 J/mol | 5 | 5 kJ·mol^{-1} | 5\,\mathrm{kJ}\,\mathrm{mol}^{-1}
3 J/(mol K) | 3 J mol^{-1} K^{-1} | 3 \mathrm{~J} \mathrm{~K}^{-1} \mathrm{~mol}^{-1} | 3 J K⁻¹ mol⁻¹
9.8 m/s^2 | 9.8 m s^{-2} | 9.8 m·s⁻² | 9.8 \frac{\text{m}}{\text{s}^2} | 9.8 \mathrm{m/s^2} | 9.8 meters per second^2
60 mph | 60 miles per hour | 60 mi/h | 60 | 60 miles/hour
12 square feet | 12 ft^2 | 12 ft² | 12 sq ft | 12
5m | 5 m | 500 cm | 5\text{ m}
2\sqrt{5}\text{ cm} | 2\sqrt{5} | \sqrt{20} cm | 2√5 cm | 20\sqrt{5} mm
12\pi \text{ square units} | 12\pi | 12π
Tuesday | tuesday | TUESDAY | \text{Tuesday} | "Tuesday" | **Tuesday**
Yes | yes | \text{yes} | YES
B | (B) | \text{B} | \text{(B)} | \textbf{(B)} | B) | b
June 20 | june 20 | \text{June 20}
[1,2) | \left[1,2\right) | [1, 2) | [1.0,2)
(-\infty,1)\cup(2,\infty) | (2,\infty)\cup(-\infty,1) | (-∞,1)∪(2,∞) | \left(-\infty, 1\right) \cup \left(2, \infty\right)
\{1,2\} | \{2,1\} | \left\{1, 2\right\} | x\in\{1,2\}
x \leq 5 | x ≤ 5 | 5 \geq x | x \le 5 | 5≥x
1<x<2 | 1 < x < 2 | 2>x>1
2x+3 | 3+2x | 2(x+1)+1 | y=2x+3
x^2-1 | (x-1)(x+1) | x²-1 | x^{2}-1 | -1+x^2
5xy | 5yx | 5 x y | 5\cdot x\cdot y
2\sin x | 2 \sin(x) | 2sin x | \sin{x} + \sin{x}
\sin 2x | \sin(2x) | \sin{2x}
288\pi | 288pi | 288π | 288 pi | 2·144\pi
\frac{\pi}{6} | π/6 | \pi/6 | \frac{1}{6}\pi | \frac{2\pi}{12}
1+\sqrt{3} | \sqrt3+1 | 1+√3
3-2i | -2i+3 | 3 - 2i
\frac{1}{2}, -3 | -3, 0.5 | -3,\frac12
5 \text{ or } 6 | 5, 6 | 6 or 5 | x=5 or x=6
12 | 12. | 12.0 | +12 | 12 apples | **12** | 0012 | \boxed{12} | １２
-\frac{1}{2} | -0.5 | -1/2 | -½ | \frac{-1}{2} | - \frac12
7 hours | 7 h | 420 minutes | 7 | 420 min | 7 hrs
5 PM | 5 pm | 5
£5 | 5 pounds | £5.00 | 5
€3 | 3 euros | 3 € | 3
3 \times 10^8 m/s | 3e8 m/s | 3·10⁸ m·s⁻¹ | 300 000 km/s | 300,000,000
1/8 | ⅛ | 2⁻³ | 0.125
\frac{5\sqrt{3}}{6} | 5√3/6 | \frac{5}{6}\sqrt3
1 N | 1 kg·m/s² | 1 kg m s^{-2} | 1
100 cm^3 | 0.1 L | 100 cm³ | 100 mL
98.6 °F | 98.6 degrees Fahrenheit | 98.6^\circ F
\sqrt[3]{4} | ∛4 | 4^{1/3}
no solution | No solution | \text{no solution}
2^{10} | 1024 | 2**10 | 2¹⁰
1,000\pi | 1000\pi | 1{,}000\pi | 1,\!000\pi
"""


def pairs(table: str) -> list[tuple[str, str]]:
    rows = [line.split(" | ") for line in table.strip().splitlines()]
    return [(gold.strip(), said.strip()) for gold, *more in rows for said in (gold, *more)]


# --- wrong answers -----------------------------------------------------------------------------------

# gold | what does not say the same, one or more
WRONG = r"""
5 | 5π | 5\pi | 5√2 | 5\sqrt{2} | 2½ | 5½ | 5³ | 5! | 5!! | 5'000 | 5⋅3 | 5·3 | 5×3 | 5⁄6 | 5/6 | 5 ± 1 | 5\pm1
5 | ≤5 | ≥5 | <5 | >5 | \leq 5 | \geq 5 | \le5 | ≠5 | \neq 5 | 5+ | 5- | 5 mod 7 | 5 \bmod 7 | 5 \pmod 7 | 5 \pmod{7}
5 | $5M | $5k | $5B | $5K | $5bn | 5M\$ | 5 million | 5 thousand | 5 dozen | 5 hundred | 5k | 5 lakh | 5 crore
5 | 0x5F | 0x1F | x=5, y=6 | x=5,y=6 | (5,6) | between 5 and 6 | not 5 | minus 5 | negative 5 | -5 | − 5 | −5 | –5 | no 5
5 | 5xy | 5x | 5 x | 5ab | 5e | 5i | 5a | 5e^2 | 5^2 | 5^{2} | 5_2 | 5_{7} | 5_{\text{seven}} | 5 \cdot x | 5n!
5 | 5 squared | 5 cubed | 5 factorial | 5 root 2 | 5 pi | 5 pi^2 | 5 and a half | 5 and a quarter | 5 halves | 5 thirds
5 | 5 tenths | 5 hundredths | 5 thousandths | 5 millionths | five halves | 5 plus 3 | 5 minus three | 5 times 3 | 5 times x
5 | at least 5 | at most 5 | more than 5 | less than 5 | fewer than 5 | up to 5 | 5 or more | 5 or less | 5 or 6 | 5, 6
5 | 5 to 6 | 5-6 | 5–6 | 5:6 | 5;6 | 5 6 | 5, 6 and 7 | 5 and 6 | neither 5 nor 6 | either 5 or 6 | 5/x | x/5 | 5(x+1) | 5(2)
5 | 5...6 | 5..6 | 5\ldots | \sqrt5 | \sqrt[3]{5} | \log 5 | \ln 5 | |x|=6 | \binom{5}{2} | 5 choose 2 | 5C2 | 5 base 6
5 | 20 May | 5 June | June 5 | 5:30 | 5/6/2024 | 5th | 5^{th} | 5% of 20 | 5 less than x | 5 more than 7 | [5, 6] | [5,6) | {5,6}
5 | x>5 | x \ge 5 | x^5 | 5^x | 5x=10 | f(5) | f(5)=6 | 5=6 | x_5 | a_5 | \frac{5}{x} | \frac{5}{6} | \frac56 | 5\frac{1}{2} | 5 \frac12
5 | 5.(3) | 5.\overline{3} | 5.3... | 0.(5) | 5,5 | 5,000 | 5 000 | 5.000,00 | 5e1 | 5e-1 | 5 x 10^3 | 5·10³ | 5\times10^{3} | 5E5
5 | 5 but it may be 6 | 5 unless x is 0 | 5 if x is 1 | maybe 5, maybe 6 | 5 is wrong | 5 (or 6) | 5 [or 6] | 5? 6? | 5 not
5 | \begin{pmatrix} 5 \\ 6 \end{pmatrix} | \{5, 6\} | 5 \text{ or } 6 | 5 \text{ and } 6 | 5\%x | 5^\prime | 5' 6" | 5 ft 6 in
3 | 3⅛ | 3√7 | 3°5' | 3 ± 0.1 | 3M dollars | €3k | 3 fifths | three quarters of 3 | 3 out of 5 | 3 isn't right
3 | no more than 3 | roughly 3 to 4 | 3;4 | 3 & 4 | a=3,b=4 | 3 (mod 4) | 3mod4 | 3sinx | 3 sin(x) | 3log2 | 3 lg 2
3 | 3-1/2 | neg 3 | 3 below zero | 3 degrees below zero | \pm 3 | twice 3 | half of 3 | 3rd | 3:15 | 3 per cent of 20
3 | 3%4 | 3 kilo | 3bn | $3bn | $3m | 3∪4 | \neg 3 | 3P2 | 3h 20min | 3.\dot{1} | 3... | ３４ | Ⅲ | 3‰ | 3′ | 3″ | 3*
3 | 3^* | \overline{3} | 3, no wait, 4 | 3 → 4 | 3\to4 | 3 \mid x | 3\circ x | x = 3 or x = 4 | 3 feet 2 inches
-5 | 5 | +5 | |-5| | 5- | (5)
4210 | 4210_5 | 4210_{5} | 4210_{\text{five}} | 4,2,1,0 | 42.10 | 4210!
0 | 0.(3) | 0.\overline{3} | 0xFF | 0x0F | 0b1 | 0π+1 | 0.5 | 0! | none | nothing
0.5 | 5 | .05 | 0,5 | 0.5^2 | 0.5x | 1/2/2 | ½² | 5\% | 0.5\pi
2 | 2½ | 2\frac12 | 2 1/2 | 2\sin x | 2sin x | 2 sin x | 2cos(x) | 2ln 3 | 2^{10} | 2¹⁰ | ²√2 | 2x + 1 | 2 + x
288 | 288pi | 288π | 288\pi | 288 \pi | 288pi^2
3 | 10^3 | 10³ | 3,5 | 3, 5 | 3 5 | 1 3 | 13 | 3.0.0 | 3:00 | 3 PM - 5 PM
10 | 10^3 | 10³ | 10^{-3} | 10⁻³ | 10_2 | 10a | 10!
1.5 | 1.5 \times 10^{3} | 1.5e3 | 1.5×10³ | 1.5x | 1.5 million | 1,5 | 1.5.2
1000 | 10^4 | 1e4 | 10^{-3} | 1.000 | 1000x | 1 000 000 | 1,000,000 | 10^3x
12000 | 12.000 | 12,00 | 12 | 12.00 | 12.000,50 | 12000 km^2/x
234 | 1 234 | 1,234 | 1'234 | 0,234 | 0.234
123 | 0,123 | 0.123 | 1,23 | 12,3 | 1 23 | 12 3
1/2 | 58 1/2 | 1 1/2 | 1/2/3 | 1/2x | 1/(2x) | \frac{1}{2}x | \frac{1}{2}\pi | 2/1 | 1:2 | -1/2
58 1/2 | 1/2 | 58 | 581/2 | 58 1/3 | -58 1/2 | 58+1 | 58 2/1
\frac{3}{4} | 3 | 4 | 4/3 | 34 | 0.34 | \frac{3}{4}\pi | -\frac{3}{4} | 3\frac{1}{4}
\sqrt{2} | 2 | 1.4 | \sqrt{3} | -\sqrt{2} | 2\sqrt{2} | \sqrt[3]{2} | 1.5
1/3 | 0.33 | 0.3 | 0.333 | 3 | 0.(6) | 0.(03)
4210_5 | 4210 | 4210_6 | 555 | 421_5
5m | 5 | 5n | 5m^2 | 5 cm | 5mn
$0.50 | 50 | 5 cents | 0.05 | $50 | 50 dollars | €0.50 | 0.5 cents | $0.50/kg
5 km | 5 m | 5 km/h | 5 kg | 5 miles | 5 km^2 | 50 km | 5 cm
5 \mathrm{kJ\,mol^{-1}} | 5 J/mol | 5 kJ/kg | 5 kJ | 5 mol | 5 kJ mol | 5000 kJ/mol
9.8 m/s^2 | 9.8 m/s | 9.8 m s^2 | 9.8 km/s^2 | 98 m/s^2
25 °C | 25 K | 25 °F | 25 degrees Fahrenheit | 25 C^2
5 PM | 5 AM | 5 am | 6 PM
50% | 50%x | 5000% | 5% | 0.05 | 51% | 50% of 20 | -50%
2\sqrt{5}\text{ cm} | 2\sqrt{5} m | 2\sqrt{3} cm | 2 cm | 5 cm
Tuesday | Wednesday | Monday | Tues or Wed | 2 | not Tuesday
Yes | No | yes and no | 1 | maybe
B | C | (C) | A | B or C | (A) | AB | 2
June 20 | June 21 | July 20 | 20 | June
x=5, y=6 | x=6, y=5 | 5 | 6 | x=5 | x=5, y=7 | x=5, z=6 | (6,5)
3, 5 | 3 | 5 | 3, 6 | 3, 5, 7 | 35 | 3.5 | 8 | (3,5) | 15
(1,2) | (2,1) | [1,2] | (1,2] | 1 | 1.2 | (1,2,3) | (12)
[1,2) | (1,2) | [1,2] | (1,2] | [1,3) | [1
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} | \begin{pmatrix} 1 & 2 \\ 3 & 5 \end{pmatrix} | \begin{pmatrix} 1 & 3 \\ 2 & 4 \end{pmatrix} | \begin{pmatrix} 1 & 2 & 3 & 4 \end{pmatrix} | 1 | 1234 | \begin{vmatrix} 1 & 2 \\ 3 & 4 \end{vmatrix} | -2
x \leq 5 | x < 5 | x \geq 5 | 5 \leq x | 5 | x \leq 6 | y \leq 5 | x = 5
1<x<2 | 1<x<3 | 1\le x<2 | x<2 | 2<x<1 | 1>x>2
2x+3 | 2x-3 | 2x | 5x | 3x+2 | 2y+3 | 2 | 3 | 2x+3y
5xy | 5 | 5x | 5xyz | 5(x+y) | xy
x^2 | x2 | 2x | x | x^3 | x_2 | x^{-2}
\{1,2\} | (1,2) | [1,2] | \{1,3\} | \{1\} | 12
2\sin x | 2 | 2\cos x | \sin 2x | 2x | 2\sin y
\Delta | \delta | \nabla
\infty | -\infty | 8 | 0 | oo7
11,\! 111,\! 100 | 11 | 11, 111, 100 | 1111110 | 100
12 | 1 2 | 1,2 | 12\pi | 12^2 | 12! | 1.2 | -12 | 12x | twelve hundred | 12 score
"""


@pytest.mark.parametrize("line", RIGHT.strip().splitlines())
def test_right_answers_written_otherwise_earn_the_reward(line):
    refused = [said for gold, said in pairs(line) if not (answers_match(said, gold) and rewarded(said, gold))]
    assert not refused


@pytest.mark.parametrize("line", WRONG.strip().splitlines())
def test_wrong_answers_never_earn_the_reward(line):
    taken = [
        said
        for gold, said in pairs(line)
        if said != gold and (answers_match(said, gold) or rewarded(said, gold))
    ]
    assert not taken


# --- in sentences ------------------------------------------------------------------------------------

# what a model says, and what it is; - for what is no answer, or leaves doubt
SAID = r"""
The answer is 18. | 18
The answer is 18 dollars per day at the market. | 18 dollars per day
The answer is $18, since 9 * 2 = 18. | $18
The answer is 18 because 9 and 9 make 18. | 18
The answer is 18, which is all that is left. | 18
The answer is 18 (eighteen). | 18
So the final answer is: **18** | 18
Final Answer: The final answer is $18$. I hope it is correct. | 18
Answer: Janet makes $18 every day. | $18
Answer: 18 apples | 18
The answer is 7. 3 + 4 = 7. | 7
The answer is: 9 + 9 = 18 dollars. | 18 dollars
The answer is $\frac{1}{2}$ by symmetry. | 1/2
The answer is $2\sqrt{5}$ cm. | 2\sqrt{5} cm
The answer is $5\pi$, and that is it. | 5\pi
The answer is 5π. | 5\pi
The answer is x = 5. | 5
The answer is 1.5 × 10³ m. | 1.5 \times 10^{3} m
The answer is (B). | (B)
The answer is Tuesday. | Tuesday
Janet sells 16 - 3 - 4 = 9 eggs. She makes 9 * 2 = $18 every day. | $18
So the distance is 1.5 × 10^3 m. | 1.5 \times 10^3 m
It is 5π. | 5\pi
It takes 20 minutes | 20 minutes
#### 58 1/2 | 58 1/2
#### 10^3 | 10^3
\boxed{5} \text{ million} | 5 million
So $\boxed{12}$ cm. | 12 cm
So $\boxed{5}\pi$. | 5\pi
$x = \boxed{3}$ or $x = 4$. | 3
$\boxed{3}$ or $\boxed{5}$ | 3, 5
\boxed{\boxed{7}} | 7
\boxed{\text{The answer is } 460} | 460
The answer is between 5 and 6. | between 5 and 6
The answer is not 5. | not 5
The answer is not 5, but I do not know what it is instead. | -
The answer is 5? No, it must be another. | -
Is the answer 5? | -
It is not 5. | -
It is 5 or 6. | -
It is 5 or more. | -
It is 5, maybe 6. | -
It is at least 5. | -
It must be less than 5. | -
It lies between 4 and 5. | -
It is one of 3, 4 and 5. | -
It is 6 minus 5. | -
It cannot be 5. | -
It isn't 5. | -
It is 5½... | -
It is 5-6. | 5-6
Nobody knows. | -
The answer is unknown. | -
The answer is nan. | -
"""


@pytest.mark.parametrize("text, answer", [line.split(" | ") for line in SAID.strip().splitlines()])
def test_the_answer_of_a_sentence(text, answer):
    assert extract_answer(text) == (None if answer == "-" else answer)


# 5 is wanted; each of these names it, and none says that it is the answer
HEDGED = [
    form.replace("6", str(other))
    for other in (6, 7, 12)
    for form in (
        "5 or 6",
        "6 or 5",
        "5, 6",
        "5 and 6",
        "5/6",
        "5 - 6",
        "5 to 6",
        "between 5 and 6",
        "not 5 but 6",
        "5, not 6, or 7",
        "6, not 5",
        "5 apples or 6",
        "5 (or 6)",
        "5? 6?",
        "either 5 or 6",
        "5 if x is 6",
        "5, maybe 6",
        "at least 5, at most 6",
        "5; 6",
        "one of 5, 6 and 7",
        "5 plus 6",
        "6 minus 5",
        "5 out of 6",
        "5:6",
        "5 less than 6",
        "5% of 6",
        "5 x 6",
        "[5, 6]",
        "5 <= 6",
        "5 or even 6",
        "5 as well as 6 or 7",
    )
]


@pytest.mark.parametrize("form", ["The answer is %s.", "\\boxed{%s}", "So it is %s", "#### %s", "%s"])
def test_who_names_several_numbers_has_given_none_of_them(form):
    taken = [said for said in HEDGED if answers_match(extract_answer(f"r\n</think>\n\n{form % said}"), "5")]
    assert not taken


# --- golds -------------------------------------------------------------------------------------------

MATH = r"""
\frac{3}{4}; -\frac{3}{8}; \frac{\sqrt{3}}{3}; \frac{3\sqrt{5}}{2}; 2\sqrt{5}; 2\sqrt{13}; 3\sqrt[3]{2}; \sqrt{2}+\sqrt{3}; 1+\sqrt{2};
1-\sqrt{2}; \frac{1+\sqrt{5}}{2}; \frac{1-\sqrt{5}}{2}; -2+\sqrt{7}; 12\pi; 288\pi; \frac{\pi}{6}; \frac{3\pi}{4}; 4\pi^2; 16\pi-32; 2^{10}\pi;
(3,\infty); [3,\infty); (-\infty,3); (-\infty,3]; [-2,7]; (-2,7); [-2,7); (-5,0)\cup(0,5); (-\infty,-2)\cup(2,\infty); (2,12)\cup(12,102); [0,1]\cup[2,3];
\begin{pmatrix} 1 \\ -2 \end{pmatrix}; \begin{pmatrix} -2 \\ 1 \end{pmatrix}; \begin{pmatrix} 1 & 0 \\ 0 & 1 \end{pmatrix}; \begin{pmatrix} 0 & 1 \\ 1 & 0 \end{pmatrix}; \begin{pmatrix} 1/5 & 2/5 \\ 3/5 & 4/5 \end{pmatrix};
\begin{pmatrix} -1/3 \\ 2/3 \\ 5/3 \end{pmatrix}; \begin{pmatrix} 1 & -2 & 1 \end{pmatrix}; \text{Evelyn}; \text{Navin}; \text{June 20}; \text{June 21}; \text{ellipse}; \text{hyperbola}; \text{even}; \text{odd};
\text{(A)}; \text{(B)}; \text{C}; \text{D}; \text{Friday}; \text{neither}; \text{east}; 4210_5; 4210_{6}; 2516_8; 11011_2; 1101_2; 413_5; DEE_{16}; 2A_{16};
(1,2); (2,1); (-1,2); (1,-2); (1,2,3); (3,\frac{\pi}{2}); (\sqrt{3},\frac{\pi}{4}); \left(\frac{1}{2},-3\right); \left(-\frac{1}{2},3\right); (0.5,3); (r,\theta); (-4,0),(4,0);
3\pm2\sqrt{2}; 5\pm\sqrt{19}; 1\pm i; 2\pm3i; -1\pm\sqrt{3}; 60^\circ; 61^\circ; 120^\circ; 22.5^\circ; \frac{45}{2}+1; 6-5i; -6+5i; i; -i; 3i; 2-i\sqrt{3}; e^{i\pi/4};
x^2+2x+1; x^2+2x-1; (x-2)(x+3); -2x^2+4x-3; 5x^3y; 6r^2-4r-24; 3x+4y=12; 3x+4y=13; y=2x+3; y=-2x+3; x=5; x=6; p^2q; \frac{x+2}{7}; \frac{x-2}{7}; \frac{1}{x+1}; 9x^2-1; x\sqrt{x}; 27y^{10}; |x-3|;
x\le5; x<6; x>7; -3\le x\le8; 2<x<9; x\ne11; k\ge12.5; \{1,2,3\}; \{1,2,4\}; \{-1,0\}; 1,-2; 2,-1; 3,5,7; 3, 5, 9; -3,\frac12; 0,\frac{\pi}{3}; 31,000; 31,001; 10,\!080; 1{,}234{,}567; \$18.90; \$18.91; \$3.50; 0.35; .36; 5.\overline{3};
0.\overline{27}; 0.\overline{28}; 37\%; 38\%; 12.5\%; 70 \text{ sq cm}; 71 \text{ sq cm}; 14\text{ units}; 15\text{ cents}; 16 \text{ mph}; 2\frac{1}{3}; 2\frac{2}{3}; 33\tfrac13; 7!; 8!; \binom{8}{3}; \log_2 3; \log_3 2; \ln 2; \sin 20; \cos 20;
\tan 2x; 2^{100}; 3^{100}; 10^{99}; 10^{-4}; 2^{-7}; \text{The answer is 460}; 6:42; 7:42; 5\text{ p.m.}; \frac{a+b}{c}; \frac{a-b}{c}; a_1; a_2; 3:4; \infty; -\infty; \emptyset; 1,000,001; \frac{243}{625}; \frac{244}{625}; 20\sqrt{3}\text{ cm}^2; 21\sqrt{3}\text{ cm}^2
"""
GOLDS = [gold.strip() for gold in MATH.replace("\n", " ").split(";") if gold.strip()]
TEXTS = sorted({said for table in (RIGHT, WRONG) for pair in pairs(table) for said in pair} | set(GOLDS))


def gsm8k(answer: str) -> dict:
    return {"question": "How many?", "answer": f"I have counted them.\n#### {answer}"}


@pytest.mark.parametrize("gold", GOLDS)
def test_a_gold_equals_itself_all_the_way(gold):
    """Row, think form, what is read back from it; as a reward; and it is not what stands beside it."""
    for row in (
        gsm8k(gold),
        {"problem_text": "Find it.", "answer_number": gold, "unit": "", "solution": "So."},
    ):
        (problem,) = reasoning_rows([row], "x", 0.0)
        said = problem["completion"][0]["content"]
        assert extract_answer(said) is not None and answers_match(extract_answer(said), gold)
        assert grade_response(said, problem["answer"]) == {"format_valid": True, "correct": True}
    assert answers_match(gold, gold) and rewarded(gold, gold)
    at = GOLDS.index(gold)
    for other in GOLDS[max(0, at - 6) : at] + GOLDS[at + 1 : at + 7]:
        assert not answers_match(other, gold), other


@pytest.mark.parametrize("form", ["r</think>The answer is {}.", "r</think>So $\\boxed{{{}}}$.", "{}"])
def test_what_is_extracted_is_extracted_again(form):
    for answer in {extract_answer(form.format(text)) for text in TEXTS} - {None}:
        assert extract_answer(f"So \\boxed{{{answer}}}.") == answer
        if (value := read_answer(answer).value) is not None:
            assert extract_answer(f"The answer is {answer}.") == answer
            assert read_answer(read_answer(answer).written).value == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "nan",
        "NaN",
        "N/A",
        "n/a",
        "NA",
        "None",
        "none",
        "null",
        "-",
        "--",
        "?",
        "...",
        "$$",
        "\\boxed{}",
        "\\boxed{None}",
        "\\text{N/A}",
        ".",
        "<NA>",
        "unknown",
    ],
)
def test_nothing_is_no_gold(text):
    assert parse_gold(text) is None
    kept = reasoning_rows([gsm8k(text), gsm8k("5")], "rows", 0.5)
    assert [row["answer"] for row in kept] == ["5"]
    assert not answers_match(text, text)


def test_a_row_whose_gold_is_nothing_is_left_out_and_shown(capsys, caplog):
    kept = reasoning_rows([gsm8k("5"), gsm8k("nan"), gsm8k("Tuesday")], "rows", 0.5)
    assert [row["answer"] for row in kept] == ["5", "Tuesday"]
    said = capsys.readouterr().out + caplog.text
    assert "1 of 3" in said and "row 1" in said


@pytest.mark.skipif(not (DATA / "scibench_half.jsonl").is_file(), reason=f"no real problems at {DATA}")
@pytest.mark.parametrize("name, n", [("gsm8k_train_1500", 1500), ("scibench_half", 290)])
def test_the_golds_of_published_sets_equal_themselves(name, n):
    rows = [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    problems = reasoning_rows(rows, name, 0.0)
    assert len(problems) == n
    for problem in problems:
        row, answer, unit = problem["row"], problem["answer"], problem["unit"]
        gold = row["answer_number"] if "answer_number" in row else row["answer"].partition("####")[2]
        said = problem["completion"][0]["content"] if problem["completion"] else f"The answer is {answer}."
        assert extract_answer(said) == answer and answers_match(answer, gold, unit=unit)
        times = " \\times " if "10^" in unit else " "
        assert not unit or answers_match(extract_answer(f"\\boxed{{{answer}{times}{unit}}}"), gold, unit=unit)


# --- beside math-verify -------------------------------------------------------------------------------

# math-verify 0.9 with its own settings takes 184 of the 325 of RIGHT, refuses 476 of the 548 of WRONG,
# and is misled by 72 of the 93 HEDGED sentences; the golds it has right (180 of 180, and 532 of 534
# neighbors). It takes 10 to 100 times as long, and on 18 of the 54 HOSTILE texts more than five seconds.
# What it does otherwise, and why we do not:
OTHERWISE = {
    "58 1/2 is a product: 29; \\frac is right": r"58 ",
    "no e in numbers, no x for times": r"\de-?\d|x10",
    "thousands by commas alone": r"\d[ .'!]\d{3}|1,000\\pi|\\!",
    "no minus in words, no pi without a backslash": r"minus|negative|pi$|2sin",
    "a power that is a decimal is not exact": r"2\^\{0\.5\}",
    "units are dropped on both sides or taken for variables: 5 km is 5 kg, $0.50 is half a cent": r"5m|\$|dollar|cents?\b|\bk?[mg]\b|cm|mJ|km|mol|mph|mi|feet|hours|m/s|PM",
    "case and words": r"The answer|Tuesday|Yes|June",
    "a chain of inequalities from its other end": r"1<x<2",
    "the beginning of what it cannot read, as a base or hexadecimal number": r"_|0x|0b|\\ldots|5th|3rd|5ab",
    "a list, set or tuple may stand for the other; 5,5 is a set of one": r"3, 5|\\\{|x=5|5,5",
    "a ratio is a fraction": r"1:2",
    "Greek letters in any case": r"Delta",
}
CHILD = """
import functools, json, sys
from math_verify import LatexExtractionConfig, parse, verify

@functools.lru_cache
def read_formula(text):
    return parse(f"${text}$", [LatexExtractionConfig()], fallback_mode="no_fallback", parsing_timeout=3)

for line in sys.stdin:
    gold, said = json.loads(line)
    read = [read_formula(text) for text in (gold, said)]
    print(json.dumps([gold, said, verify(*read, timeout_seconds=3) if all(read) else None]), flush=True)
"""


def by_math_verify(rows: list[tuple[str, str]], seconds: int = 240) -> list[tuple[str, str, bool]]:
    """(gold, said, verdict) as far as it comes in time: on some formulas it does not return."""
    asked = "\n".join(map(json.dumps, rows))
    try:
        done = subprocess.run(
            [sys.executable, "-c", CHILD], input=asked, capture_output=True, text=True, timeout=seconds
        )
        out = done.stdout
    except subprocess.TimeoutExpired as late:
        out = (late.stdout or b"").decode()
    return [tuple(row) for line in out.splitlines() if (row := json.loads(line))[2] is not None]


@pytest.mark.slow
def test_differences_from_math_verify_are_explained():
    pytest.importorskip("math_verify")
    beside = [(a, b) for i, a in enumerate(GOLDS) for b in GOLDS[i : i + 3]]
    wrong = [pair for pair in pairs(WRONG) if pair[0] != pair[1]]
    verdicts = by_math_verify((pairs(RIGHT) + wrong + beside)[::4])  # every fourth, to save time
    differ = [(gold, said) for gold, said, verdict in verdicts if verdict != answers_match(said, gold)]
    unexplained = [
        f"{gold} | {said}"
        for gold, said in differ
        if not any(re.search(form, f"{gold} | {said}") for form in OTHERWISE.values())
    ]
    assert not unexplained
    assert len(differ) < 0.15 * max(200, len(verdicts))


# --- numbers resampled -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer", ["12½", "12 1/2", "12%", "12π", "≤12", "12, 13", "1.200,00", "12 km", "$12M", "12!", "twelve"]
)
def test_a_problem_whose_answer_is_no_plain_number_is_not_resampled(answer):
    row = {
        "question": "Ann has 48 clips and sells 36. How many has she?",
        "answer": f"48-36=<<48-36=12>>12\n#### {answer}",
    }
    assert all(resample_numbers(row, random.Random(seed)) is None for seed in range(5))
    assert any(
        resample_numbers({**row, "answer": "48-36=<<48-36=12>>12\n#### 12"}, random.Random(seed))
        for seed in range(5)
    )


@pytest.mark.parametrize(
    "number", ["48½", "48²", "48'000", "48 000", "4.800,00", "48!", "48π", "48^2", "48e3", "√48"]
)
def test_a_problem_with_numbers_that_are_not_read_is_not_resampled(number):
    row = {
        "question": f"Ann has {number} pears, 48 clips and sells 36. How many?",
        "answer": "48-36=<<48-36=12>>12\n#### 12",
    }
    assert all(resample_numbers(row, random.Random(seed)) is None for seed in range(5))
